"""Reads batches ahead of the step, in threads or in processes of its own.

Threads cost nothing to start and share what is open, but also Python's lock: of
small JPEGs two of them decode no more than one and a half. Processes share
nothing but the memory that images are handed over in.
"""

import collections
import dataclasses
import logging
import math
import mmap
import os
import pickle
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import reduction
from typing import Any, NamedTuple

import grain
import numpy as np

from bigscale.data import workers
from bigscale.data.batches import Element, Position, StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.sequence import Fault
from bigscale.spec import DataSpec
from bigscale.types import Batch

_log = logging.getLogger(__name__)
# Of killed processes, before a step is read.
_RESTARTS = 3


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
  sources = batches.records.mix.sources
  usual = 2 if any(source.decodes for source in sources) else 1
  threads = min(spec.threads or usual, spec.prefetch)
  return ThreadReader(batches, threads, spec.prefetch)


@dataclasses.dataclass(frozen=True)
class _StepsFrom:
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
    source = grain.MapDataset.source(_StepsFrom(self._batches, start))
    return iter(source.to_iter_dataset(self._options))

  def close(self) -> None:
    """Threads end with their iterator."""


class _Slots:
  """Memory for images that is shared with the processes it is sent to.

  It has no name that could be left behind, and no file system that could be
  full: it is there for as long as somebody has it open.
  """

  def __init__(self, count: int, shape: tuple[int, ...]) -> None:
    self._shape = (count, *shape)
    file = os.memfd_create("bigscale-images")
    os.ftruncate(file, math.prod(self._shape))
    self._map(file)

  def _map(self, file: int) -> None:
    self._file = file
    memory = mmap.mmap(file, math.prod(self._shape))
    self._images = np.frombuffer(memory, np.uint8).reshape(self._shape)

  def __del__(self) -> None:
    os.close(self._file)

  def __getstate__(self) -> tuple[tuple[int, ...], Any]:
    return self._shape, reduction.DupFd(self._file)

  def __setstate__(self, state: tuple[tuple[int, ...], Any]) -> None:
    self._shape, file = state
    self._map(file.detach())

  def __getitem__(self, slot: int) -> np.ndarray:
    return self._images[slot]


class _Task(NamedTuple):
  """A step to read, and the slot for its images."""

  start: Position
  step: int
  slot: int


def _read(
  shared: tuple[StepBatches, _Slots], task: _Task
) -> tuple[np.ndarray, tuple[Fault, ...]]:
  """In a process of its own."""
  batches, slots = shared
  return batches.read_into(task.start, task.step, slots[task.slot])


class ProcessReader:
  """Reads in processes, without Grain, started when a step is asked for."""

  def __init__(self, batches: StepBatches, workers: int, prefetch: int) -> None:
    self._workers = workers
    # One step is being handed over while the others are read.
    self._ahead = prefetch + 1
    self._shared = (batches, _Slots(self._ahead, batches.images_shape))
    self._pool: Any = None

  def __str__(self) -> str:
    return f"{self._workers} process{'es' * (self._workers > 1)}"

  def read_from(self, start: Position) -> Generator[Element, None, None]:
    """Elements from a position on.

    Processes that were killed are replaced: the system may have been short of
    memory, or told everybody to end, which the run answers for.

    Raises:
      DataError: they are killed again and again; or of a record.
    """
    step, restarts = 0, 0
    waiting: collections.deque[Future] = collections.deque()
    try:
      while True:
        try:
          while len(waiting) < self._ahead:
            waiting.append(self._submit(start, step + len(waiting)))
          labels, faults = waiting[0].result()
        except BrokenProcessPool as error:
          waiting.clear()
          self.close()
          restarts += 1
          self._tell(restarts, error)
          continue
        restarts = 0
        waiting.popleft()
        images = self._shared[1][step % self._ahead].copy()
        step += 1
        yield Element(Batch(images, labels), faults)
    finally:
      # Their slots are to be used again.
      wait(waiting)

  def _submit(self, start: Position, step: int) -> Future:
    if self._pool is None:
      self._pool = workers.open_pool(self._shared, self._workers)
    task = _Task(start, step, step % self._ahead)
    try:
      return workers.submit(self._pool, _read, task)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
      raise DataError(
        f"a source cannot be sent to other processes ({error}), which "
        f"data.workers={self._workers} reads in; give it a __getstate__ that "
        "leaves that out, or set data.workers=0"
      ) from error

  def _tell(self, restarts: int, error: BrokenProcessPool) -> None:
    if restarts > _RESTARTS:
      raise DataError(
        f"processes that read data (data.workers={self._workers}) were killed "
        f"{restarts} times in a row, perhaps for want of memory; set fewer, or "
        "data.workers=0"
      ) from error
    _log.warning("a process that reads data was killed; starting others")

  def close(self) -> None:
    """Ends the processes; `read_from` starts others."""
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)
      self._pool = None
