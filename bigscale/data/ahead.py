"""Reads batches ahead of the training step, in threads or in processes.

Threads start quickly and share open files, but they also share Python's lock:
for small JPEGs, two threads decode only about 1.5 times as fast as one.
Processes share only the memory through which they return images.
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
# Consecutive restarts of killed processes before the reader gives up.
_RESTARTS = 3


def open_reader(
  batches: StepBatches, spec: DataSpec
) -> "ThreadReader | ProcessReader":
  """Opens the reader that the spec selects.

  Raises:
    DataError: `spec.workers` is set, but this system cannot share anonymous
      memory between processes.
  """
  if spec.workers:
    if not hasattr(os, "memfd_create"):
      raise DataError(
        f"data.workers={spec.workers} needs Linux, where processes can share "
        "memory; set data.workers=0 to read in threads"
      )
    return ProcessReader(batches, spec.workers, spec.prefetch)
  sources = batches.records.mix.sources
  default = 2 if any(source.decodes for source in sources) else 1
  threads = min(spec.threads or default, spec.prefetch)
  return ThreadReader(batches, threads, spec.prefetch)


@dataclasses.dataclass(frozen=True)
class _StepsFrom:
  """A Grain source whose element i is the i-th step after a position.

  An element is a whole step, because reading single records through Grain
  costs several times as much.
  """

  batches: StepBatches
  start: Position

  def __len__(self) -> int:
    return self.batches.steps_from(self.start)

  def __getitem__(self, step: int) -> Element:
    return self.batches.read(self.start, step)


class ThreadReader:
  """Reads steps in threads of this process, using Grain."""

  def __init__(self, batches: StepBatches, threads: int, prefetch: int) -> None:
    self._batches = batches
    self._options = grain.ReadOptions(
      num_threads=threads, prefetch_buffer_size=prefetch
    )

  def __str__(self) -> str:
    count = self._options.num_threads
    return f"{count} thread{'s' * (count > 1)}"

  def read_from(self, start: Position) -> Iterator[Element]:
    """Iterates over steps from a position; `close` ends the threads."""
    source = grain.MapDataset.source(_StepsFrom(self._batches, start))
    return iter(source.to_iter_dataset(self._options))

  def close(self) -> None:
    """Does nothing: the threads end with their iterator."""


class _Slots:
  """Shared memory for images: one slot for each step that is read ahead.

  The memory is anonymous, so it leaves no name behind and needs no space on a
  file system. The system frees it when the last process closes it.
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
  """A step to read and the slot for its images."""

  start: Position
  step: int
  slot: int


def _read(
  shared: tuple[StepBatches, _Slots], task: _Task
) -> tuple[np.ndarray, tuple[Fault, ...]]:
  """Reads a step in a worker process."""
  batches, slots = shared
  return batches.read_into(task.start, task.step, slots[task.slot])


class ProcessReader:
  """Reads steps in worker processes, without Grain.

  The processes start when the first step is read.
  """

  def __init__(self, batches: StepBatches, workers: int, prefetch: int) -> None:
    self._workers = workers
    # The consumer copies one step while the workers read the others.
    self._ahead = prefetch + 1
    self._shared = (batches, _Slots(self._ahead, batches.images_shape))
    self._pool: Any = None

  def __str__(self) -> str:
    return f"{self._workers} process{'es' * (self._workers > 1)}"

  def read_from(self, start: Position) -> Generator[Element, None, None]:
    """Iterates over steps from a position.

    Killed processes are replaced. The system may have run out of memory, or
    may be stopping the whole job, which the training loop handles.

    Raises:
      DataError: processes are killed more than three times in a row, or a
        record cannot be read.
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
          self._handle_kill(restarts, error)
          continue
        restarts = 0
        waiting.popleft()
        images = self._shared[1][step % self._ahead].copy()
        step += 1
        yield Element(Batch(images, labels), faults)
    finally:
      # A later call reuses the slots.
      wait(waiting)

  def _submit(self, start: Position, step: int) -> Future:
    if self._pool is None:
      self._pool = workers.open_pool(self._shared, self._workers)
    task = _Task(start, step, step % self._ahead)
    try:
      return workers.submit(self._pool, _read, task)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
      raise DataError(
        f"data.workers={self._workers} reads data in other processes, but a "
        f"source cannot be pickled ({error}); give it a __getstate__ that "
        "omits the unpicklable attributes, or set data.workers=0"
      ) from error

  def _handle_kill(self, restarts: int, error: BrokenProcessPool) -> None:
    if restarts > _RESTARTS:
      raise DataError(
        f"processes that read data (data.workers={self._workers}) were killed "
        f"{restarts} times in a row, perhaps because memory ran out; use fewer "
        "workers, or set data.workers=0"
      ) from error
    _log.warning("a process that reads data was killed; restarting the workers")

  def close(self) -> None:
    """Ends the processes; `read_from` starts new ones."""
    if self._pool is not None:
      self._pool.shutdown(cancel_futures=True)
      self._pool = None
