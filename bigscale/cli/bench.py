"""Times what a run does, on the devices here.

  bigscale bench step --config=configs/fashion_biggan.py --steps=20

`step`: the run's own training step on random images: seconds of a step and of
compiling it, images a second, arithmetic beside that of a large matrix product
on the same devices, and memory.
"""

import dataclasses
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

  if what != "step":
    raise SpecError(
      f"bench {what!r} is unknown; use: bigscale bench step --config=..."
    )
  spec = spec_of(FLAGS)

  from bigscale.bench.step import measure

  timing = measure(spec, FLAGS.steps)
  if FLAGS.json:
    print(json.dumps(dataclasses.asdict(timing), indent=2))
  else:
    print(timing)
  return 0
