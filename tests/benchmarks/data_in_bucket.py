r"""Compares a stream of a set on gs:// with one of the same set on a disk.

  python -m tests.benchmarks.data_in_bucket --rounds=5

Makes 20,000 JPEGs of 64 px in ten shards, two of which are shuffled together.
A server on loopback holds a copy, behind a proxy that adds 20 ms to each
request. Each round is a new process without copies, which reads the two streams
by turns, 15 batches at a time. The first window is read before the time is
taken. In the first epoch, the other windows are copied while they are read; in
the second, all are copied.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.data_against_torch import BATCH, RECORDS, SIDE, make_set
from tests.place import servers
from tests.place.proxy import between

SHARDS, TOGETHER, DELAY, TURN = 10, 2, 0.02, 15
PHASES = ("copied while read", "copied before")


def _open(source: str) -> Iterator[Any]:
  from bigscale.data import pipeline
  from bigscale.spec import DataSpec

  return pipeline.make(
    DataSpec(source=source, flip=True, prefetch=4, shuffle_files=TOGETHER),
    resolution=SIDE,
    channels=3,
    num_classes=10,
    global_batch_size=BATCH,
    batches_per_step=1,
    seed=0,
  )


def _seconds(stream: Iterator[Any], batches: int) -> float:
  start = time.perf_counter()
  for _ in range(batches):
    next(stream)
  return time.perf_counter() - start


def measure(local: str, remote: str) -> dict[str, list[float]]:
  """Returns the seconds of both streams in each phase."""
  streams = [_open(local), _open(remote)]
  first = RECORDS * TOGETHER // SHARDS // BATCH + 1
  for stream in streams:
    _seconds(stream, first)
  epoch = RECORDS // BATCH
  found = {}
  for phase, batches in zip(PHASES, (epoch - first, epoch), strict=True):
    found[phase] = [0.0, 0.0]
    for turn in range(batches // TURN):
      for number in (0, 1) if turn % 2 else (1, 0):
        found[phase][number] += _seconds(streams[number], TURN)
  return found


def compare(rounds: int, folder: pathlib.Path) -> None:
  """Prints the ratio of the rates in each phase."""
  from bigscale import place

  local = str(folder / "set")
  make_set(local, "jpeg", RECORDS // SHARDS)
  ratios: dict[str, list[float]] = {phase: [] for phase in PHASES}
  with servers.running("gs", folder) as server, between(server) as proxy:
    os.environ.update(servers.environment("gs", proxy.endpoint))
    address = f"gs://{servers.BUCKET}/set"
    remote = place.open_place(address)
    for entry in place.open_place(local).list():
      remote.write(entry.name, place.open_place(local).read(entry.name))
    proxy.delay = DELAY
    command = [sys.executable, "-m", "tests.benchmarks.data_in_bucket"]
    for number in range(rounds):
      found = subprocess.run(
        [*command, f"--sources={local},{address}"],
        env=os.environ | {"BIGSCALE_CACHE": str(folder / f"cache{number}")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
      )
      for phase, (disk, bucket) in json.loads(found.stdout).items():
        ratios[phase].append(disk / bucket)
  for phase, values in ratios.items():
    print(
      f"{phase}: {statistics.median(values):.2f} of the disk's rate "
      f"({min(values):.2f} to {max(values):.2f} in {rounds} rounds)"
    )


def main() -> None:
  """Runs the comparison, or one measurement of it."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--sources", default="")
  args = parser.parse_args()
  if args.sources:
    print(json.dumps(measure(*args.sources.split(","))))
    return
  with tempfile.TemporaryDirectory() as folder:
    compare(args.rounds, pathlib.Path(folder))


if __name__ == "__main__":
  main()
