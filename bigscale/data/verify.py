"""Reads a data set back whole."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple

from bigscale.data import ingest, records, workers
from bigscale.data import manifest as manifests
from bigscale.data.manifest import DataError, Manifest
from bigscale.data.shards import check_size, open_shard

_RECORDS_AT_ONCE = 256
# A shard of one kind of fault is not listed record by record.
_MOST_FAULTS = 20


class _Job(NamedTuple):
  directory: str
  manifest: Manifest


def verify(
  directory: str,
  num_workers: int = 1,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
  """Checks every shard, record, image and label against the manifest.

  Args:
    directory: of a data set in shards.
    num_workers: processes, each at a shard.
    progress: called with the records read, and those to read in all.

  Returns:
    One sentence for every fault found, in reading order; none if it is sound.

  Raises:
    DataError: the manifest itself cannot be used.
  """
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
      if len(faults) == _MOST_FAULTS:
        faults.append(f"{job.manifest.shards[index].file} has more faults")
        break
      faults.append(fault)
  except DataError as error:
    faults.append(str(error))
  return index, faults


def _faults(job: _Job, index: int) -> Iterator[str]:
  shard = job.manifest.shards[index]
  check_size(job.directory, shard)
  path = os.path.join(job.directory, shard.file)
  if ingest.sha256(path) != shard.sha256:
    yield (
      f"shard {path} does not have the sha256 of the manifest; copy it again "
      "or build the set again"
    )
  reader = open_shard(job.directory, shard)
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
  """Records [start, end), or what became of reading them."""
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
