"""Writes records to ArrayRecord shards, and data sets that fit in memory.

Files appear complete or not at all: shards are written under temporary names
and renamed. The manifest is written last, and a data set without a manifest
cannot be opened. `build` writes data sets that do not fit in memory.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bigscale import place
from bigscale.data import manifest as manifests
from bigscale.data.manifest import DataError, Manifest, Schema, ShardFile
from bigscale.data.records import encode

# Reading a record also reads and unpacks the rest of its group. Groups of one
# uncompressed record are therefore fastest: four times as fast as zstd groups
# of 4 for raw images of 64 px.
FASTEST = "group_size:1,uncompressed"

LabelledRecords = Iterable[tuple[np.ndarray, int | tuple[int, ...]]]


def write(
  directory: str,
  splits: Mapping[manifests.Split, LabelledRecords],
  *,
  name: str,
  schema: Schema,
  class_names: tuple[str, ...],
  source: str,
  licence: str,
  padding: int = 0,
  records_per_shard: int = 10_000,
  compression: str = FASTEST,
) -> Manifest:
  """Writes a data set.

  Args:
    directory: output directory, created if missing; must not contain a data
      set.
    splits: for each split, pairs of an image [H, W, C] uint8 and its label or
      labels in [0, len(class_names)). Without classes, the label is 0 or ().
    name: name of the data set.
    schema: layout of the records.
    class_names: name of each label; empty for an unlabeled set.
    source: origin of the images.
    licence: license of the images.
    padding: see `Manifest`.
    records_per_shard: records per shard; the last shard of a split may have
      fewer.
    compression: options of the ArrayRecord writer.

  Raises:
    DataError: the directory contains a data set, a split is empty, or an image
      or label does not fit the schema.
  """
  if records_per_shard < 1:
    raise DataError(f"records_per_shard={records_per_shard} must be 1 or more")
  make_directory(directory)
  if os.path.exists(os.path.join(directory, manifests.FILE_NAME)):
    raise holds_a_set(directory)
  shards: list[ShardFile] = []
  for split, samples in splits.items():
    encoded = _encoded(samples, class_names, schema)
    shards += _write_split(
      directory, split, encoded, compression, records_per_shard
    )
  manifest = Manifest(
    name=name,
    schema=schema,
    class_names=class_names,
    shards=tuple(shards),
    source=source,
    licence=licence,
    padding=padding,
  )
  manifests.save(manifest, directory)
  return manifest


def make_directory(directory: str) -> None:
  """Creates a directory and its parents.

  Raises:
    DataError: the directory cannot be created.
  """
  try:
    os.makedirs(place.on_disk(directory), exist_ok=True)
  except OSError as error:
    raise DataError(
      f"{directory} cannot be created ({error.strerror}); use a writable "
      "directory"
    ) from error


def holds_a_set(directory: str) -> DataError:
  """Returns the error for a directory that already contains a data set."""
  return DataError(
    f"{directory} already contains a data set; remove it or use another "
    "directory"
  )


def _encoded(
  samples: LabelledRecords, class_names: tuple[str, ...], schema: Schema
) -> Iterator[bytes]:
  limit = max(1, len(class_names))
  for index, (image, label) in enumerate(samples):
    labels = label if isinstance(label, tuple) else (label,)
    if class_names and not labels:
      raise DataError(
        f"image {index} has no label, but the set has {limit} classes; label "
        "it, or leave it out"
      )
    for one in labels:
      if not 0 <= one < limit:
        raise DataError(
          f"image {index} has label {one}, which is not in [0, {limit}); "
          "correct it, or name every class in class_names"
        )
    yield encode(image, labels, schema)


def _write_split(
  directory: str,
  split: manifests.Split,
  encoded: Iterator[bytes],
  options: str,
  records_per_shard: int,
) -> list[ShardFile]:
  partial: list[tuple[str, int]] = []
  while head := list(itertools.islice(encoded, 1)):
    rest = itertools.islice(encoded, records_per_shard - 1)
    path = os.path.join(directory, f"{split}-{len(partial):05d}.partial")
    records = write_records(path, itertools.chain(head, rest), options)
    partial.append((path, records))
  if not partial:
    raise DataError(
      f"the {split} split has no images; add images, or leave the split out"
    )
  shards = []
  for index, (path, records) in enumerate(partial):
    file = shard_name(split, index, len(partial))
    os.replace(path, os.path.join(directory, file))
    shards.append(describe_shard(directory, file, split, records))
  return shards


def shard_name(split: manifests.Split, index: int, count: int) -> str:
  """Returns the file name of shard `index` out of `count`."""
  return f"{split}-{index:05d}-of-{count:05d}.array_record"


def describe_shard(
  directory: str, file: str, split: manifests.Split, records: int
) -> ShardFile:
  """Returns the manifest entry of a written shard."""
  path = os.path.join(directory, file)
  return ShardFile(
    file=file,
    split=split,
    records=records,
    bytes=os.path.getsize(path),
    sha256=sha256(path),
  )


def write_records(path: str, encoded: Iterable[bytes], options: str) -> int:
  """Writes an ArrayRecord file and returns its number of records.

  Args:
    path: output path.
    encoded: records, consumed lazily.
    options: options of the ArrayRecord writer, such as `group_size:4,zstd`.
  """
  from array_record.python.array_record_module import ArrayRecordWriter

  # Encode the path, which may not be valid Unicode.
  writer = ArrayRecordWriter(os.fsencode(path), options)
  records = 0
  try:
    for record in encoded:
      writer.write(record)
      records += 1
  finally:
    writer.close()
  return records


def sha256(path: str) -> str:
  """Returns the SHA-256 digest of a file in hexadecimal."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
