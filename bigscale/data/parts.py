"""Files of a build that are finished one by one, and found again."""

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

# Of the reasons for rejects, in a message.
_SHOWN = 3


class Rejected(NamedTuple):
  """A record that was left out: which, why (after "it"), and its file."""

  index: int
  reason: str
  where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """A finished file: the content of its `.done`.

  Attributes:
    file: name inside the directory.
    split: that it is a part of.
    records: how many it holds; 0 if all were rejected, and there is no file.
    bytes: its size.
    sha256: of it, hexadecimal.
    rejects: the records left out.
    labels: how many records carry a label, by label.
    unchanged: records that are a file of the source, byte for byte.
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
  """What all files of a build share.

  Attributes:
    inputs: the source of each split.
    directory: to write to.
    options: of the build.
    schema: of the records.
  """

  inputs: Mapping[Split, Source]
  directory: str
  options: BuildOptions
  schema: Schema


class Task(NamedTuple):
  """A file to make.

  Attributes:
    split: of the source to read.
    file: name inside the directory.
    indices: [N] int64, the records that go in, in order.
  """

  split: Split
  file: str
  indices: np.ndarray

  def partial(self, directory: str) -> str:
    """Where to write it."""
    return os.path.join(directory, f"{self.file}.{os.getpid()}.partial")

  def finish(
    self,
    directory: str,
    records: int,
    rejects: Sequence[Rejected],
    labels: Mapping[int, int] | None = None,
    unchanged: int = 0,
  ) -> Part:
    """Gives what was written at `partial` its name, then its `.done`."""
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
  """Writes a JSON file, whole or not at all."""
  with open_json(f"{path}.partial") as file:
    json.dump(tree, file, ensure_ascii=False)
  os.replace(f"{path}.partial", path)


def _find(directory: str, file: str) -> Part | None:
  """A part that an earlier call has finished."""
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
  """Makes the parts that are not there yet, and counts.

  Attributes:
    rejects: of all parts, and their splits.
    duplicates: by split.
    new: how many parts each function made.
  """

  def __init__(
    self,
    directory: str,
    *,
    workers: int,
    max_rejects: int,
    progress: Callable[[int, int], None],
  ) -> None:
    """See `BuildOptions`; `progress` is called with records done and in all."""
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
    """Makes or finds the part of every task, in order of the tasks.

    Args:
      function: makes a part; of a module.
      job: its first argument.
      tasks: one a part.

    Raises:
      DataError: too many rejects, or a file cannot be read or written.
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
        f"a file of the input cannot be read, or of {self._directory} not "
        f"written: {error}; mend that and start again: what is finished is kept"
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
        f"{len(self.rejects)} records cannot be used, and max_bad_fraction "
        f"allows {self._max_rejects} ({shown}); mend or remove those in "
        f"{os.path.join(self._directory, 'rejects.jsonl')}, or raise "
        "max_bad_fraction and start again"
      )
    self._done += records
    self._progress(self._done, self._total)
