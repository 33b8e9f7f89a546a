"""Writes images as ArrayRecord shards with a manifest, and checks them.

Files appear whole or not at all: shards are written under other names and
renamed, and the manifest, without which nothing opens, comes last.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bigscale.data import hashing
from bigscale.data import manifest as manifests
from bigscale.data.manifest import DataError, Manifest, Schema, Shard
from bigscale.data.records import decode_into, encode
from bigscale.data.sources import check_size, open_shard

# A record reads its whole group: small ones keep random access fast. Encoded
# images do not compress again.
_WRITER_OPTIONS = {
  "raw": "group_size:4,zstd:19",
  "png": "group_size:1,uncompressed",
}
_HELDOUT = 0x48454C44

Samples = Iterable[tuple[np.ndarray, int]]


def write(
  directory: str,
  splits: Mapping[manifests.Split, Samples],
  *,
  name: str,
  schema: Schema,
  class_names: tuple[str, ...],
  source: str,
  licence: str,
  records_per_shard: int = 10_000,
) -> Manifest:
  """Writes a data set.

  Args:
    directory: made if need be; must not hold a data set.
    splits: for each split, pairs of an image [H, W, C] uint8 and a label in
      [0, len(class_names)), or 0 where there are no classes.
    name: of the data set.
    schema: layout of the records.
    class_names: name of label i at i; empty for an unlabelled set.
    source: where the images come from.
    licence: of the images.
    records_per_shard: the last shard of a split may hold fewer.

  Raises:
    DataError: the directory holds a data set, a split is empty, or an image or
      label does not fit the schema.
  """
  if records_per_shard < 1:
    raise DataError(f"records_per_shard={records_per_shard} must be 1 or more")
  os.makedirs(directory, exist_ok=True)
  if os.path.exists(os.path.join(directory, manifests.FILE_NAME)):
    raise DataError(
      f"{directory} already holds a data set; remove it or name another "
      "directory"
    )
  shards: list[Shard] = []
  for split, samples in splits.items():
    checked = _checked(samples, max(1, len(class_names)))
    shards += _write_split(directory, split, checked, schema, records_per_shard)
  manifest = Manifest(
    name=name,
    schema=schema,
    class_names=class_names,
    shards=tuple(shards),
    source=source,
    licence=licence,
  )
  manifests.save(manifest, directory)
  return manifest


def _checked(samples: Samples, labels: int) -> Iterator[tuple[np.ndarray, int]]:
  for index, (image, label) in enumerate(samples):
    if not 0 <= label < labels:
      raise DataError(
        f"image {index} has label {label}, which is not in [0, {labels}); "
        "correct it, or name every class in class_names"
      )
    yield image, int(label)


def _write_split(
  directory: str,
  split: manifests.Split,
  samples: Iterator[tuple[np.ndarray, int]],
  schema: Schema,
  records_per_shard: int,
) -> list[Shard]:
  partial: list[tuple[str, int]] = []
  while head := list(itertools.islice(samples, 1)):
    rest = itertools.islice(samples, records_per_shard - 1)
    path = os.path.join(directory, f"{split}-{len(partial):05d}.partial")
    partial.append(
      (path, _write_shard(path, itertools.chain(head, rest), schema))
    )
  if not partial:
    raise DataError(
      f"the {split} split has no images; give it some or leave it out"
    )
  shards = []
  for index, (path, records) in enumerate(partial):
    file = f"{split}-{index:05d}-of-{len(partial):05d}.array_record"
    final = os.path.join(directory, file)
    os.replace(path, final)
    shards.append(
      Shard(
        file=file,
        split=split,
        records=records,
        bytes=os.path.getsize(final),
        sha256=sha256(final),
      )
    )
  return shards


def _write_shard(path: str, samples: Samples, schema: Schema) -> int:
  from array_record.python.array_record_module import ArrayRecordWriter

  writer = ArrayRecordWriter(path, _WRITER_OPTIONS[schema.encoding])
  records = 0
  try:
    for image, label in samples:
      writer.write(encode(image, label, schema))
      records += 1
  finally:
    writer.close()
  return records


def sha256(path: str) -> str:
  """The hexadecimal digest of a file."""
  with open(path, "rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: str) -> tuple[str, ...]:
  """Reads a data set back whole.

  Returns:
    One sentence for every fault found, in reading order; none if it is sound.

  Raises:
    DataError: the manifest itself cannot be used.
  """
  manifest = manifests.load(directory)
  faults: list[str] = []
  for shard in manifest.shards:
    try:
      faults += _verify_shard(directory, shard, manifest)
    except DataError as error:
      faults.append(str(error))
  return tuple(faults)


def _verify_shard(
  directory: str, shard: Shard, manifest: Manifest
) -> list[str]:
  check_size(directory, shard)
  path = os.path.join(directory, shard.file)
  faults = []
  if sha256(path) != shard.sha256:
    faults.append(
      f"shard {path} does not have the sha256 of the manifest; copy it again "
      "or build the set again"
    )
  reader = open_shard(directory, shard)
  out = np.empty(manifest.schema.image_shape, np.uint8)
  labels = max(1, len(manifest.class_names))
  for record in range(shard.records):
    try:
      data = reader.read(record, record + 1)[0]
      label = decode_into(data, manifest.schema, out)
    except (ValueError, RuntimeError, IndexError) as error:
      faults.append(f"record {record} of {path} cannot be read: {error}")
      continue
    if not 0 <= label < labels:
      faults.append(
        f"record {record} of {path} has label {label}, which is not in "
        f"[0, {labels})"
      )
  return faults


def heldout_mask(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """Picks the same share of every class to hold out.

  Args:
    labels: [N] integers.
    fraction: of each class, rounded to whole images; in [0, 1].
    seed: chooses which.

  Returns:
    [N] bool, True where held out: a function of the arguments alone.
  """
  ranks = hashing.random_bits(seed, _HELDOUT, np.arange(len(labels)))
  mask = np.zeros(len(labels), bool)
  for label in np.unique(labels):
    members = np.flatnonzero(labels == label)
    count = round(fraction * len(members))
    mask[members[np.argsort(ranks[members])[:count]]] = True
  return mask
