"""Time what a run does, on the devices here.

  bigscale bench step --config=fashion_biggan --steps=20
  bigscale bench data --config=fashion_biggan --steps=100
  bigscale bench options --config=biggan_imagenet128 --steps=20

`step`: the run's own training step on random images: seconds of a step and of
compiling it, images a second, arithmetic beside that of a large matrix product
on the same devices, and memory.

`data`: the run's own stream of images, without training: images a second,
processor time of one, and what reading alone reaches.

`options`: gradients and time of one step with the compiler options that the run
sets, and without. Exits with 1 where gradients differ by more than rounding.
"""

import dataclasses
import importlib
import json

from bigscale.cli.config_flags import ConfigFlags, spec_of
from bigscale.spec import require

FLAGS = ConfigFlags()
FLAGS.define_config("the run's config file")
FLAGS.integer("steps", 20, "steps to time, after two to warm up")
FLAGS.bool("json", False, "print JSON")


def run(what: str = "") -> int:
  """Measures and prints."""
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
