"""Measure the gradient noise scale of D and G.

Example:
  bigscale scaling noise runs/first --windows=4

Prints the noise scale in images for each window of the run, with a 95%
interval. The run must have been trained with log.noise_scale=True.
"""

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from bigscale.scaling.noise_scale import NoiseScale

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.integer("windows", 1, "Number of equal parts of the run.")
FLAGS.integer("resamples", 4000, "Number of bootstrap resamples.")
FLAGS.integer("seed", 0, "Seed of the bootstrap.")
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints the noise scale of each window."""
  from bigscale.report.read import read_run
  from bigscale.scaling.noise_scale import noise_scales
  from bigscale.spec import require

  require(
    bool(path), "scaling noise needs a run: bigscale scaling noise runs/first"
  )
  found = noise_scales(
    read_run(path).rows,
    windows=FLAGS.windows,
    resamples=FLAGS.resamples,
    seed=FLAGS.seed,
  )
  if FLAGS.json:
    # JSON cannot represent infinity.
    finite = [
      {k: None if v == math.inf else v for k, v in one._asdict().items()}
      for one in found
    ]
    print(json.dumps(finite, indent=2))
    return 0
  print("     kimg         rows  noise scale, images (95% interval)")
  for one in found:
    print(_line(one))
  return 0


def _line(one: "NoiseScale") -> str:
  span = f"{one.first_kimg:g} to {one.last_kimg:g}"
  if math.isinf(one.low):
    scale = "unknown: the gradient is below the noise"
  elif math.isinf(one.noise_scale):
    scale = f"the gradient is below the noise (at least {one.low:.0f})"
  elif math.isinf(one.high):
    scale = f"{one.noise_scale:.0f} (at least {one.low:.0f})"
  else:
    scale = f"{one.noise_scale:.0f} ({one.low:.0f} to {one.high:.0f})"
  return f"{one.player}    {span:12} {one.rows:4}  {scale}"
