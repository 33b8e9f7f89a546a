"""Measure the speed of a run's training step or data pipeline.

Example:
  bigscale bench step --config=fashion_biggan --steps=20

`bench step` times the training step on random images. It reports seconds per
step, compile time, images per second, memory, and FLOP/s compared with a large
matrix product on the same devices.

`bench data` times the data pipeline without training. It reports images per
second, CPU time per image, and the rate of reading alone.

`bench options` runs one training step with and without the compiler options of
the run, and compares gradients and time. The exit code is 1 if the gradients
differ by more than rounding.

More examples:
  bigscale bench data --config=fashion_biggan --steps=100
  bigscale bench options --config=biggan_imagenet128 --steps=20
"""

import dataclasses
import importlib
import json

from bigscale.cli.config_flags import ConfigFlags, spec_of
from bigscale.spec import require

FLAGS = ConfigFlags()
FLAGS.define_config("Config of the run.")
FLAGS.integer("steps", 20, "Steps to time, after two warm-up steps.")
FLAGS.bool("json", False, "Print JSON.")


def run(what: str = "") -> int:
  """Prints a measurement."""
  require(
    what in ("step", "data", "options"),
    f"bench {what!r} is unknown; use: bigscale bench step --config=..., or "
    "data, or options",
  )
  measure = importlib.import_module(f"bigscale.bench.{what}").measure
  timing = measure(spec_of(FLAGS), FLAGS.steps)
  if FLAGS.json:
    print(json.dumps(dataclasses.asdict(timing), indent=2))
  else:
    print(timing)
  return 0 if getattr(timing, "agrees", True) else 1
