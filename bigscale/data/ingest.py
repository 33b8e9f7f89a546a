"""Writes records as ArrayRecord shards, and sets that fit in memory whole.

Files appear whole or not at all: shards are written under other names and
renamed, and the manifest, without which nothing opens, comes last. Sets that
do not fit in memory are made by `build`.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bigscale.data import manifest as manifests
from bigscale.data.manifest import DataError, Manifest, Schema, ShardFile
from bigscale.data.records import encode

# A record reads and unpacks its whole group, so that single ones, as they are,
# are read fastest: raw images of 64 px four times as fast as groups of 4 that
# zstd has packed.
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
    directory: made if need be; must not hold a data set.
    splits: for each split, pairs of an image [H, W, C] uint8 and its label, or
      labels, in [0, len(class_names)); 0 or () where there are no classes.
    name: of the data set.
    schema: layout of the records.
    class_names: name of label i at i; empty for an unlabelled set.
    source: where the images come from.
    licence: of the images.
    padding: see `Manifest`.
    records_per_shard: the last shard of a split may hold fewer.
    compression: options of the ArrayRecord writer.

  Raises:
    DataError: the directory holds a data set, a split is empty, or an image or
      label does not fit the schema.
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
  """Makes a directory and those above it.

  Raises:
    DataError: that is not possible.
  """
  try:
    os.makedirs(directory, exist_ok=True)
  except OSError as error:
    raise DataError(
      f"{directory} cannot be made ({error.strerror}); name a directory that "
      "can be written"
    ) from error


def holds_a_set(directory: str) -> DataError:
  """The error of a directory that must not be written over."""
  return DataError(
    f"{directory} already holds a data set; remove it or name another directory"
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
      f"the {split} split has no images; give it some or leave it out"
    )
  shards = []
  for index, (path, records) in enumerate(partial):
    file = shard_name(split, index, len(partial))
    os.replace(path, os.path.join(directory, file))
    shards.append(describe_shard(directory, file, split, records))
  return shards


def shard_name(split: manifests.Split, index: int, count: int) -> str:
  """The file of the shard `index` of `count`."""
  return f"{split}-{index:05d}-of-{count:05d}.array_record"


def describe_shard(
  directory: str, file: str, split: manifests.Split, records: int
) -> ShardFile:
  """Sums up a shard that has been written."""
  path = os.path.join(directory, file)
  return ShardFile(
    file=file,
    split=split,
    records=records,
    bytes=os.path.getsize(path),
    sha256=sha256(path),
  )


def write_records(path: str, encoded: Iterable[bytes], options: str) -> int:
  """Writes one ArrayRecord file and counts its records.

  Args:
    path: of the file.
    encoded: its records, drawn as they are written.
    options: of the writer, as `group_size:4,zstd`.
  """
  from array_record.python.array_record_module import ArrayRecordWriter

  # As bytes: a path need not be Unicode.
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
  """The hexadecimal digest of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
