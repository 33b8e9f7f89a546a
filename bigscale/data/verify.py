"""Reads a whole data set, sharded or not, and lists its faults."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

from bigscale.data import ingest, places, records, workers
from bigscale.data import manifest as manifests
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import DataError, Manifest, ShardFile
from bigscale.data.shard_cache import local_copy
from bigscale.data.shards import check_size, open_shard
from bigscale.data.sources import BadRecordError, Source

_RECORDS_AT_ONCE = 256
# Maximum number of faults listed per shard.
_MAX_SHARD_FAULTS = 20
# Maximum number of unusable images listed for a folder.
_MAX_LISTED_IMAGES = 1000


class _Job(NamedTuple):
  directory: str
  manifest: Manifest


class _Part(NamedTuple):
  """Records [start, end) of a split."""

  split: str
  start: int
  end: int


def verify(
  path: str,
  num_workers: int = 1,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
  """Reads every record and decodes every image.

  A sharded set is also compared with its manifest.

  Args:
    path: a directory of shards, or any other input that can be trained on or
      built from (`inputs.open_inputs`).
    num_workers: number of processes.
    progress: called with the number of records read and the total.

  Returns:
    One sentence per fault, in reading order; empty if the data are valid.

  Raises:
    DataError: the manifest itself is invalid, or there are no data.
  """
  path = places.user_path(path)
  if places.has_file(path, manifests.FILE_NAME):
    return _verify_shards(path, num_workers, progress)
  return _verify_images(path, num_workers, progress)


def _verify_images(
  path: str,
  num_workers: int,
  progress: Callable[[int, int], None] | None,
) -> tuple[str, ...]:
  """Verifies images that are not in shards, for example in a folder or zip."""
  splits = open_inputs(path)
  parts = [
    _Part(split, start, min(start + _RECORDS_AT_ONCE, len(source)))
    for split, source in splits.items()
    for start in range(0, len(source), _RECORDS_AT_ONCE)
  ]
  total, done = sum(map(len, splits.values())), 0
  found: dict[_Part, list[str]] = {}
  results = workers.each(
    _verify_part, dict(splits), parts, max(1, min(num_workers, len(parts)))
  )
  with closing(results):
    for part, faults in results:
      found[part] = faults
      done += part.end - part.start
      if progress is not None:
        progress(done, total)
  faults = [fault for part in parts for fault in found[part]]
  if len(faults) > _MAX_LISTED_IMAGES:
    more = len(faults) - _MAX_LISTED_IMAGES
    return (*faults[:_MAX_LISTED_IMAGES], f"{more} more records cannot be used")
  return tuple(faults)


def _verify_part(
  splits: Mapping[str, Source], part: _Part
) -> tuple[_Part, list[str]]:
  source, faults = splits[part.split], []
  for index in range(part.start, part.end):
    try:
      source.read(index)
    except BadRecordError as error:
      faults.append(
        f"{error.where} (record {index} of {source.name}) cannot be used: "
        f"{error.reason}"
      )
  return part, faults


def _verify_shards(
  directory: str,
  num_workers: int,
  progress: Callable[[int, int], None] | None,
) -> tuple[str, ...]:
  manifest = manifests.load(directory)
  total, done = sum(shard.records for shard in manifest.shards), 0
  found: dict[int, list[str]] = {}
  results = workers.each(
    _verify_shard,
    _Job(directory, manifest),
    range(len(manifest.shards)),
    max(1, min(num_workers, len(manifest.shards))),
  )
  with closing(results):
    for index, faults in results:
      found[index] = faults
      done += manifest.shards[index].records
      if progress is not None:
        progress(done, total)
  return tuple(fault for index in sorted(found) for fault in found[index])


def _verify_shard(job: _Job, index: int) -> tuple[int, list[str]]:
  faults: list[str] = []
  try:
    for fault in _faults(job, index):
      if len(faults) == _MAX_SHARD_FAULTS:
        faults.append(f"{job.manifest.shards[index].file} has more faults")
        break
      faults.append(fault)
  except DataError as error:
    faults.append(str(error))
  return index, faults


def _faults(job: _Job, index: int) -> Iterator[str]:
  shard = job.manifest.shards[index]
  if places.is_remote(job.directory):
    # The copy is compared with the manifest when it is made.
    with local_copy(job.directory, shard) as copy:
      reader = open_shard(job.directory, shard, copy)
      yield from _record_faults(job, shard, reader)
    return
  check_size(job.directory, shard)
  path = os.path.join(job.directory, shard.file)
  if ingest.sha256(path) != shard.sha256:
    yield (
      f"shard {path} does not have the sha256 of the manifest; copy it again "
      "or build the set again"
    )
  yield from _record_faults(job, shard, open_shard(job.directory, shard))


def _record_faults(job: _Job, shard: ShardFile, reader: Any) -> Iterator[str]:
  path = os.path.join(job.directory, shard.file)
  limit = max(1, len(job.manifest.class_names))
  for start in range(0, shard.records, _RECORDS_AT_ONCE):
    end = min(start + _RECORDS_AT_ONCE, shard.records)
    for record, data in _read(reader, start, end):
      try:
        if isinstance(data, Exception):
          raise data
        _, labels = records.decode(data, job.manifest.schema)
        if min(labels) < 0 or max(labels) >= limit:
          raise ValueError(f"its labels {labels} are not all in [0, {limit})")
      except (ValueError, RuntimeError, IndexError) as error:
        yield f"record {record} of {path} cannot be used: {error}"


def _read(
  reader: Any, start: int, end: int
) -> Iterator[tuple[int, bytes | Exception]]:
  """Yields records [start, end), or the exceptions from reading them."""
  try:
    together: Mapping[int, bytes] = dict(
      zip(range(start, end), reader.read(start, end), strict=True)
    )
  except (ValueError, RuntimeError, IndexError):
    together = {}
  for record in range(start, end):
    if record in together:
      yield record, together[record]
      continue
    try:
      yield record, reader.read(record, record + 1)[0]
    except (ValueError, RuntimeError, IndexError) as error:
      yield record, error
