r"""Compares our data stream with PyTorch's DataLoader and with Grain.

  python -m tests.benchmarks.data_against_torch --out=DIR

Creates 20,000 records of 64 px once, as JPEG and as raw bytes. Each loader
reads them shuffled, in batches of 256, with random mirroring. All loaders
decode with the same library. Each loader runs alone, in a separate process, and
the loaders take turns. Prints the median and the range over the rounds.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

BATCH, SIDE, RECORDS = 256, 64, 20_000
SIDES = ("processes", "threads", "torch", "grain")


def make_set(
  directory: str, encoding: str, records_per_shard: int = 10_000
) -> None:
  """Writes smooth random images, which compress like photographs."""
  from bigscale.data import ingest
  from bigscale.data.manifest import Schema

  def pictures() -> Iterator[tuple[np.ndarray, int]]:
    from PIL import Image

    random = np.random.default_rng(0)
    for record in range(RECORDS):
      coarse = random.integers(0, 256, (12, 12, 3), np.uint8)
      image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.BICUBIC)
      noise = random.normal(0, 6, (SIDE, SIDE, 3))
      pixels = np.asarray(image, np.float32) + noise
      yield np.clip(pixels, 0, 255).astype(np.uint8), record % 10

  ingest.write(
    directory,
    {"train": pictures()},
    name=f"pictures-{encoding}",
    schema=Schema(encoding=encoding, image_shape=(SIDE, SIDE, 3)),
    class_names=tuple("0123456789"),
    source="made",
    licence="none",
    records_per_shard=records_per_shard,
  )


def processes(directory: str) -> Iterator[np.ndarray]:
  """Reads with `bigscale.data.pipeline` in two processes."""
  return threads(directory, workers=2)


def threads(directory: str, workers: int = 0) -> Iterator[np.ndarray]:
  """Reads with `bigscale.data.pipeline` and its default number of threads."""
  from bigscale.data import pipeline
  from bigscale.spec import DataSpec

  stream = pipeline.make(
    DataSpec(source=directory, flip=True, prefetch=4, workers=workers),
    resolution=SIDE,
    channels=3,
    num_classes=10,
    global_batch_size=BATCH,
    batches_per_step=1,
    seed=0,
  )
  return (batch.images[0] for batch in stream)


class _Mirrored:
  """A map-style data set of a source, with random mirroring."""

  def __init__(self, directory: str) -> None:
    from bigscale.data.openers import open_source

    self.source = open_source(directory, "train")

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
    image, labels = self.source.read(int(index))
    if np.random.random() < 0.5:
      image = image[:, ::-1]
    return np.ascontiguousarray(image), labels[0]


def torch(directory: str) -> Iterator[np.ndarray]:
  """Reads with a DataLoader and two spawned workers.

  Forked workers crash if readers are open.
  """
  import torch.utils.data as data

  loader = data.DataLoader(
    _Mirrored(directory),
    batch_size=BATCH,
    shuffle=True,
    num_workers=2,
    drop_last=True,
    multiprocessing_context="spawn",
    persistent_workers=True,
  )
  while True:
    for images, _ in loader:
      yield images.numpy()


def grain(directory: str) -> Iterator[np.ndarray]:
  """Reads with Grain's own source, shuffle, map and batch, as in its guide."""
  import grain

  from bigscale.data import manifest, records

  schema = manifest.load(directory).schema
  paths = sorted(map(str, pathlib.Path(directory).glob("train-*")))

  def decode(record: bytes, random: np.random.Generator) -> np.ndarray:
    image, _ = records.decode(record, schema)
    return np.ascontiguousarray(
      image[:, ::-1] if random.random() < 0.5 else image
    )

  dataset = (
    grain.MapDataset.source(grain.sources.ArrayRecordDataSource(paths))
    .seed(0)
    .shuffle()
    .repeat(None)
    .random_map(decode)
    .to_iter_dataset()
    .batch(BATCH)
  )
  return iter(dataset)


def work(side: str, directory: str, batches: int) -> None:
  """Runs a worker, which reads `batches` batches per line of stdin."""
  sides = (processes, threads, torch, grain)
  stream = dict(zip(SIDES, sides, strict=True))[side](directory)
  for _ in itertools.islice(stream, 8):
    pass
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    for _ in itertools.islice(stream, batches):
      pass
    print(
      json.dumps(batches * BATCH / (time.perf_counter() - start)), flush=True
    )


def compare(
  directory: str, batches: int, rounds: int
) -> dict[str, list[float]]:
  """Returns images per second of each loader in all rounds."""
  rates = {side: [] for side in SIDES}
  for _ in range(rounds):
    for side, found in rates.items():
      # Only one worker runs at a time, because idle workers read ahead.
      worker = subprocess.Popen(
        [
          *(sys.executable, "-m", "tests.benchmarks.data_against_torch"),
          *(f"--worker={side}", f"--out={directory}", f"--batches={batches}"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
      )
      assert worker.stdout.readline() == "ready\n", f"{side} failed"
      worker.stdin.write("go\n")
      worker.stdin.flush()
      found.append(json.loads(worker.stdout.readline()))
      worker.kill()
      worker.wait()
  return rates


def main() -> None:
  """Compares the loaders on both encodings."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True, help="folder for the sets")
  parser.add_argument("--batches", type=int, default=60)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--worker", help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.worker:
    work(arguments.worker, arguments.out, arguments.batches)
    return
  for encoding in ("jpeg", "raw"):
    directory = os.path.join(arguments.out, encoding)
    if not os.path.exists(os.path.join(directory, "manifest.json")):
      make_set(directory, encoding)
    rates = compare(directory, arguments.batches, arguments.rounds)
    print(encoding)
    for side, found in rates.items():
      middle = statistics.median(found)
      ratios = [
        mine / torchs
        for mine, torchs in zip(found, rates["torch"], strict=True)
      ]
      print(
        f"  {side:6} {middle:8.0f} images/s ({min(found):.0f} to "
        f"{max(found):.0f}); over torch's: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
      )


if __name__ == "__main__":
  main()
