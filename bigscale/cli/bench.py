"""Times what a run does, on the devices here.

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
import functools
import importlib
import json

from absl import flags

from bigscale.cli.common import Subcommand, spec_of
from bigscale.cli.overrides import define_config


def _flags() -> flags.FlagValues:
  """What all take."""
  values = flags.FlagValues()
  define_config(values, "the run's config file")
  flags.DEFINE_integer(
    "steps", 20, "steps to time, after two to warm up", flag_values=values
  )
  flags.DEFINE_bool("json", False, "print JSON", flag_values=values)
  return values


def _run(what: str, values: flags.FlagValues) -> int:
  """Measures and prints."""
  spec = spec_of(values)
  measure = importlib.import_module(f"bigscale.bench.{what}").measure
  timing = measure(spec, values.steps)
  if values.json:
    print(json.dumps(dataclasses.asdict(timing), indent=2))
  else:
    print(timing)
  return 0 if getattr(timing, "agrees", True) else 1


def _subcommand(what: str, text: str) -> Subcommand:
  values = _flags()
  return Subcommand(values, functools.partial(_run, what, values), text, 0)


USAGE = "bigscale bench step --config=..., or data, or options"
SUBCOMMANDS = {
  "step": _subcommand(
    "step",
    "Time a run's training step on random images.\n\n"
    "  bigscale bench step --config=fashion_biggan --steps=20\n",
  ),
  "data": _subcommand(
    "data",
    "Time a run's stream of images, without training.\n\n"
    "  bigscale bench data --config=fashion_biggan --steps=100\n",
  ),
  "options": _subcommand(
    "options",
    "Compare a training step with and without the run's compiler options.\n\n"
    "  bigscale bench options --config=biggan_imagenet128 --steps=20\n",
  ),
}
