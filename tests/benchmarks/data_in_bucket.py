r"""Compares a stream of a set on gs:// with one of the same set on a disk.

  python -m tests.benchmarks.data_in_bucket --rounds=5

Makes 20,000 JPEGs of 64 px in ten shards, two of which are shuffled together.
A server on loopback holds a copy, behind a proxy that adds 20 ms to each
request. The streams run one after another, each in a process of its own. The
first window is read before the time is taken; the rest of the epoch is copied
while it is read (`gs, copying`), or was copied before (`gs, copied`).
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.data_against_torch import BATCH, RECORDS, SIDE, make_set
from tests.place import servers
from tests.place.proxy import between

SHARDS, TOGETHER, DELAY = 10, 2, 0.02


def measure(source: str) -> float:
  """Returns the images per second of a stream after its first window."""
  from bigscale.data import pipeline
  from bigscale.spec import DataSpec

  stream = pipeline.make(
    DataSpec(source=source, flip=True, prefetch=4, shuffle_files=TOGETHER),
    resolution=SIDE,
    channels=3,
    num_classes=10,
    global_batch_size=BATCH,
    batches_per_step=1,
    seed=0,
  )
  first = RECORDS * TOGETHER // SHARDS // BATCH + 1
  for _ in range(first):
    next(stream)
  batches = RECORDS // BATCH - first
  start = time.perf_counter()
  for _ in range(batches):
    next(stream)
  seconds = time.perf_counter() - start
  stream.close()
  return batches * BATCH / seconds


def _measure_apart(source: str, cache: pathlib.Path) -> float:
  """Returns `measure` of a new process."""
  command = [sys.executable, "-m", "tests.benchmarks.data_in_bucket"]
  found = subprocess.run(
    [*command, f"--source={source}"],
    env=os.environ | {"BIGSCALE_CACHE": str(cache)},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return float(found.stdout)


def compare(rounds: int, folder: pathlib.Path) -> None:
  """Prints the rates of all rounds and the ratios to the disk."""
  from bigscale import place

  local = str(folder / "set")
  make_set(local, "jpeg", RECORDS // SHARDS)
  rates: dict[str, list[float]] = {}
  with servers.running("gs", folder) as server, between(server) as proxy:
    os.environ.update(servers.environment("gs", proxy.endpoint))
    address = f"gs://{servers.BUCKET}/set"
    remote = place.open_place(address)
    for entry in place.open_place(local).list():
      remote.write(entry.name, place.open_place(local).read(entry.name))
    proxy.delay = DELAY
    for _ in range(rounds):
      cache = folder / "cache"
      shutil.rmtree(cache, ignore_errors=True)
      for name, source in (
        ("disk", local),
        ("gs, copying", address),
        ("gs, copied", address),
      ):
        rates.setdefault(name, []).append(_measure_apart(source, cache))
  for name, found in rates.items():
    ratios = [a / b for a, b in zip(found, rates["disk"], strict=True)]
    print(
      f"{name}: {statistics.median(found):,.0f} images per second, "
      f"{statistics.median(ratios):.2f} of the disk "
      f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
  """Runs the comparison, or one measurement of it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--source", default="")
  args = parser.parse_args()
  if args.source:
    print(measure(args.source))
    return
  with tempfile.TemporaryDirectory() as folder:
    compare(args.rounds, pathlib.Path(folder))


if __name__ == "__main__":
  main()
