"""Times what a run does, on the devices here.

  bigscale bench step --config=configs/fashion_biggan.py --steps=20
  bigscale bench data --config=configs/fashion_biggan.py --steps=100

`step`: the run's own training step on random images: seconds of a step and of
compiling it, images a second, arithmetic beside that of a large matrix product
on the same devices, and memory.

`data`: the run's own stream of images, without training: images a second,
processor time of one, and what reading alone reaches.
"""

import dataclasses
import importlib
import json

from absl import flags
from ml_collections import config_flags

FLAGS = flags.FlagValues()
MAX_ARGUMENTS = 1
config_flags.DEFINE_config_file(
  "config",
  help_string="the run's config file",
  lock_config=True,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "steps", 20, "steps to time, after two to warm up", flag_values=FLAGS
)
flags.DEFINE_bool("json", False, "print JSON", flag_values=FLAGS)


def run(what: str = "") -> int:
  """Measures and prints."""
  from bigscale.cli.common import spec_of
  from bigscale.spec import SpecError

  if what not in ("step", "data"):
    raise SpecError(
      f"bench {what!r} is unknown; use: bigscale bench step --config=... or "
      "bigscale bench data --config=..."
    )
  spec = spec_of(FLAGS)
  measure = importlib.import_module(f"bigscale.bench.{what}").measure
  timing = measure(spec, FLAGS.steps)
  if FLAGS.json:
    print(json.dumps(dataclasses.asdict(timing), indent=2))
  else:
    print(timing)
  return 0
