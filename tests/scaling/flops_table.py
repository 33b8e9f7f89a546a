"""Prints the tables of docs/reference/flops.md: FLOP by shapes and by traces.

  python -m tests.scaling.flops_table [CONFIG[:ARG] ...]

It only traces, which takes 15 to 60 seconds per platform and config.
"""

import importlib
import sys

from bigscale.scaling.flops import training_flops
from bigscale.spec import from_config
from tests.scaling import traced

RUNS = (
  "biggan:128",
  "biggan:32",
  "biggan:64",
  "biggan:256",
  "biggan:512",
  "biggan_deep:128",
  "biggan_deep:256",
  "biggan_deep:512",
  "sngan",
  "r3gan:cifar10",
  "r3gan:ffhq64",
  "r3gan:ffhq256",
  "r3gan:imagenet32",
  "r3gan:imagenet64",
  "r3gan:stacked_mnist",
  "r3gan_roadmap:B",
  "r3gan_roadmap:C",
  "r3gan_roadmap:D",
  "fashion_biggan",
  "fashion_r3gan",
  "emoji_r3gan",
)


def spec_of(run, small=False):
  """Returns the spec of "config" or "config:argument"."""
  name, _, argument = run.partition(":")
  module = importlib.import_module(f"configs.{name}")
  get = module.get_test_config if small else module.get_config
  return from_config(get(*[argument] if argument else ()))


def cells(run):
  """Yields a row: GFLOP per image, then the difference of each trace."""
  spec = spec_of(run)
  cost = training_flops(spec)
  yield f"{cost.per_image / 1e9:.4g}"
  for platform in (traced.PLAIN, "cpu", "tpu"):
    networks = traced.step_flops(spec, platform) - cost.augmentation
    yield f"{networks / cost.per_step - 1:+.2%}"


def main():
  for run in sys.argv[1:] or RUNS:
    print(f"| {run} | {' | '.join(cells(run))} |", flush=True)


if __name__ == "__main__":
  main()
