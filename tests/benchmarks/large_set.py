r"""Measures a stream over hundreds of millions of records.

  python -m tests.benchmarks.large_set --out=DIR --shards=3000

Writes one shard of 100,000 records of 100 bytes and links it under `--shards`
names. The content repeats, but each name is opened, indexed and read as a
separate file. Prints the time to open the stream, the time of the first batch,
the time per index, the images per second, the growth of this process's memory,
and the random reads of one shard per second of one core. Shards are shuffled in
windows of the size that the stream chooses, or of `--files` shards. Use
`--shards=1 --records=300000` for one large shard.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time

import numpy as np

from bigscale.data import ingest, manifest, pipeline
from bigscale.data.manifest import Schema
from bigscale.data.order import order_of
from bigscale.data.shards import ShardSource
from bigscale.spec import DataSpec

BATCH, READS = 256, 20_000


def make_set(directory: str, shards: int, records: int) -> None:
  """Writes a shard and links it under many names."""
  if os.path.exists(os.path.join(directory, manifest.FILE_NAME)):
    return
  image = np.zeros((4, 8, 3), np.uint8)
  built = ingest.write(
    directory,
    {"train": ((image + i % 250, 0) for i in range(records))},
    name="large",
    schema=Schema(encoding="raw", image_shape=image.shape),
    class_names=(),
    source="made",
    licence="none",
    records_per_shard=records,
  )
  (real,) = built.shards
  names = [f"train-{i:05d}-of-{shards:05d}.array_record" for i in range(shards)]
  for name in set(names) - {real.file}:
    os.link(os.path.join(directory, real.file), os.path.join(directory, name))
  many = tuple(dataclasses.replace(real, file=name) for name in names)
  manifest.save(dataclasses.replace(built, shards=many), directory)


def rss_mb() -> float:
  """Returns the resident memory of this process in MiB."""
  with open("/proc/self/statm", encoding="ascii") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def reads_per_second(source: ShardSource) -> float:
  """Returns random reads of the first shard per second of processor time.

  The value is the median of five measurements.
  """
  records = source.file_records[0]
  indices = np.random.default_rng(0).integers(0, records, READS).tolist()
  source.read(0)
  rates = []
  for _ in range(5):
    clock = time.process_time()
    for index in indices:
      source.read(index)
    rates.append(READS / (time.process_time() - clock))
  return statistics.median(rates)


def measure(directory: str, batches: int, files: int) -> dict[str, float]:
  """Measures one stream; `files` is `DataSpec.shuffle_files`."""
  before, start = rss_mb(), time.perf_counter()
  stream = pipeline.make(
    DataSpec(source=directory, shuffle_files=files, prefetch=2),
    resolution=4,  # the side of the centered square, so nothing is resampled
    channels=3,
    num_classes=0,
    global_batch_size=BATCH,
    batches_per_step=1,
    seed=0,
  )
  stood = time.perf_counter()
  next(stream)
  first = time.perf_counter()
  for _ in range(batches):
    next(stream)
  rate = batches * BATCH / (time.perf_counter() - first)
  grown = rss_mb() - before
  stream.close()
  source = ShardSource(directory, "train")
  order = order_of(source, files, 0, shuffle=True)
  places = np.arange(10**10, 10**10 + BATCH)
  order.indices(places)
  clock = time.perf_counter()
  for turn in range(50):
    order.indices(places + turn * BATCH)
  index_us = 1e6 * (time.perf_counter() - clock) / 50 / BATCH
  return {
    "records": len(source),
    "files_together": order.together,
    "stream_stands_ms": round(1e3 * (stood - start), 1),
    "first_batch_ms": round(1e3 * (first - stood), 1),
    "index_us": round(index_us, 2),
    "images_per_second": round(rate),
    "memory_mb": round(grown),
    "reads_per_core_second": round(reads_per_second(source)),
  }


def main() -> None:
  """Creates the set if it does not exist, and measures."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True)
  parser.add_argument("--shards", type=int, default=3000)
  parser.add_argument("--records", type=int, default=100_000, help="a shard")
  parser.add_argument("--batches", type=int, default=200)
  parser.add_argument("--files", type=int, default=0)
  arguments = parser.parse_args()
  make_set(arguments.out, arguments.shards, arguments.records)
  print(json.dumps(measure(arguments.out, arguments.batches, arguments.files)))


if __name__ == "__main__":
  main()
