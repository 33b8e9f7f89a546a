"""Reads batches ahead of the step, in threads or in processes of its own.

Threads cost nothing to start and share what is open, but also Python's lock: of
small JPEGs two of them decode no more than one and a half. Processes share
nothing but the memory that images are handed over in.
"""

import dataclasses
import os
from collections.abc import Iterator

import grain

from bigscale.data.batches import Element, StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.position import Position
from bigscale.data.processes import ProcessReader
from bigscale.spec import DataSpec


def open_reader(
  batches: StepBatches, spec: DataSpec
) -> "ThreadReader | ProcessReader":
  """Whatever reads ahead as a run asks for.

  Raises:
    DataError: processes are asked for, and this system cannot share memory
      with them.
  """
  if spec.workers:
    if not hasattr(os, "memfd_create"):
      raise DataError(
        f"data.workers={spec.workers} needs Linux, whose processes can share "
        "memory; set data.workers=0 and read in threads"
      )
    return ProcessReader(batches, spec.workers, spec.prefetch)
  sources = batches.records.parts.sources
  usual = 2 if any(source.decodes for source in sources) else 1
  threads = min(spec.threads or usual, spec.prefetch)
  return ThreadReader(batches, threads, spec.prefetch)


@dataclasses.dataclass(frozen=True)
class _From:
  """A Grain source whose element i is the i-th step from a position.

  A whole step is one element: record by record Grain costs several times as
  much.
  """

  batches: StepBatches
  start: Position

  def __len__(self) -> int:
    return self.batches.steps_from(self.start)

  def __getitem__(self, step: int) -> Element:
    return self.batches.read(self.start, step)


class ThreadReader:
  """Reads in threads of this process, by Grain."""

  def __init__(self, batches: StepBatches, threads: int, prefetch: int) -> None:
    self._batches = batches
    self._options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=prefetch
    )

  def __str__(self) -> str:
    count = self._options.num_threads
    return f"{count} thread{'s' * (count > 1)}"

  def read_from(self, start: Position) -> Iterator[Element]:
    """Elements from a position on; `close` ends the threads."""
    source = grain.MapDataset.source(_From(self._batches, start))
    return iter(source.to_iter_dataset(self._options))

  def close(self) -> None:
    """Threads end with their iterator."""
