"""Output files of a build, which are finished one by one and then kept."""

import collections
import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import ingest, workers
from bigscale.data.manifest import DataError, Schema, Split, open_json
from bigscale.data.recipe import BuildOptions
from bigscale.data.sources import Source

# Number of rejected records that an error message shows.
_SHOWN = 3


class Rejected(NamedTuple):
  """A rejected record: its index, the reason and its file.

  The reason continues a sentence that starts with "it".
  """

  index: int
  reason: str
  where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A finished file: the content of its `.done`.

  Attributes:
    file: file name inside the directory.
    split: split of the records.
    records: number of records; 0 if all were rejected and there is no file.
    bytes: size of the file in bytes.
    sha256: SHA-256 digest of the file, hexadecimal.
    rejects: rejected records.
    labels: number of records of each label.
    unchanged: number of records that are a source file, byte for byte.
  """

  file: str
  split: Split
  records: int
  bytes: int
  sha256: str
  rejects: Sequence[Rejected]
  labels: Mapping[int, int]
  unchanged: int


class Job(NamedTuple):
  """Settings that all tasks of a build share.

  Attributes:
    inputs: source of each split.
    directory: output directory.
    options: options of the build.
    schema: layout of the records.
  """

  inputs: Mapping[Split, Source]
  directory: str
  options: BuildOptions
  schema: Schema


class Task(NamedTuple):
  """A file to write.

  Attributes:
    split: split of the source to read.
    file: file name inside the directory.
    indices: [N] int64, records to write, in order.
  """

  split: Split
  file: str
  indices: np.ndarray

  def partial(self, directory: str) -> str:
    """Returns the temporary path to write the file to."""
    return os.path.join(directory, f"{self.file}.{os.getpid()}.partial")

  def finish(
    self,
    directory: str,
    records: int,
    rejects: Sequence[Rejected],
    labels: Mapping[int, int] | None = None,
    unchanged: int = 0,
  ) -> Part:
    """Renames the file written at `partial`, then writes its `.done`."""
    path = os.path.join(directory, self.file)
    shard = {"bytes": 0, "sha256": ""}
    if records:
      os.replace(self.partial(directory), path)
      shard = ingest.describe_shard(directory, self.file, self.split, records)
      shard = {"bytes": shard.bytes, "sha256": shard.sha256}
    else:
      os.remove(self.partial(directory))
    part = Part(
      file=self.file,
      split=self.split,
      records=records,
      rejects=rejects,
      labels=dict(labels or {}),
      unchanged=unchanged,
      **shard,
    )
    write_json(f"{path}.done", dataclasses.asdict(part))
    return part


def write_json(path: str, tree: Mapping[str, Any]) -> None:
  """Writes a JSON file atomically."""
  with open_json(f"{path}.partial") as file:
    json.dump(tree, file, ensure_ascii=False)
  os.replace(f"{path}.partial", path)


def _find(directory: str, file: str) -> Part | None:
  """Returns a part that an earlier call finished, or None."""
  path = os.path.join(directory, file)
  try:
    with open(f"{path}.done", encoding="utf-8") as done:
      tree = json.load(done)
    if tree["records"] and os.path.getsize(path) != tree["bytes"]:
      return None
    tree["labels"] = {int(k): v for k, v in tree["labels"].items()}
    tree["rejects"] = [Rejected(*row) for row in tree["rejects"]]
    return Part(**tree)
  except (OSError, ValueError, KeyError, TypeError):
    return None


class PartMaker:
  """Makes the missing parts of a build, and counts rejected records.

  Attributes:
    rejects: rejected records of all parts, with their splits.
    duplicates: number of duplicates by split.
    new: number of parts that each function made.
  """

  def __init__(
    self,
    directory: str,
    *,
    workers: int,
    max_rejects: int,
    progress: Callable[[int, int], None],
  ) -> None:
    """See `BuildOptions`; `progress` gets the records done and the total."""
    self.rejects: list[tuple[Split, Rejected]] = []
    self.duplicates: collections.Counter[Split] = collections.Counter()
    self.new: collections.Counter[Callable[..., Part]] = collections.Counter()
    self._directory = directory
    self._workers = workers
    self._max_rejects = max_rejects
    self._progress = progress
    self._done = 0
    self._total = 0

  def run(
    self,
    function: Callable[[Job, Task], Part],
    job: Job,
    tasks: Sequence[Task],
  ) -> list[Part]:
    """Makes or finds the part of every task, in the order of the tasks.

    Args:
      function: module-level function that makes a part.
      job: first argument of `function`.
      tasks: one task per part.

    Raises:
      DataError: too many records are rejected, or a file cannot be read or
        written.
    """
    self._total = self._done + sum(len(task.indices) for task in tasks)
    found = {task.file: _find(self._directory, task.file) for task in tasks}
    sizes = {task.file: len(task.indices) for task in tasks}
    for part in found.values():
      if part is not None:
        self._count(part, sizes[part.file])
    todo = [task for task in tasks if found[task.file] is None]
    made = workers.each(function, job, todo, min(self._workers, len(todo) or 1))
    try:
      with closing(made):
        for part in made:
          found[part.file] = part
          self.new[function] += 1
          self._count(part, sizes[part.file])
    except (OSError, RuntimeError) as error:
      raise DataError(
        f"reading the input or writing to {self._directory} failed: {error}; "
        "fix the problem and start again: finished files are kept"
      ) from error
    return [found[task.file] for task in tasks]

  def _count(self, part: Part, records: int) -> None:
    self.rejects += [(part.split, reject) for reject in part.rejects]
    if len(self.rejects) > self._max_rejects:
      shown = "; ".join(
        f"{split} record {r.index}{f' ({r.where})' if r.where else ''}: "
        f"{r.reason}"
        for split, r in self.rejects[:_SHOWN]
      )
      raise DataError(
        f"{len(self.rejects)} records cannot be used, but max_bad_fraction "
        f"allows {self._max_rejects} ({shown}); fix or remove those in "
        f"{os.path.join(self._directory, 'rejects.jsonl')}, or raise "
        "max_bad_fraction and start again"
      )
    self._done += records
    self._progress(self._done, self._total)
