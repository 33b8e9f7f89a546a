"""Reads batches ahead in processes, which do without Grain and start soon."""

import collections
import logging
import math
import mmap
import os
from collections.abc import Generator
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import reduction
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import workers
from bigscale.data.batches import Element, StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.position import Position
from bigscale.data.sequence import Fault
from bigscale.types import Batch

_log = logging.getLogger(__name__)
# Of killed processes, before a step is read.
_RESTARTS = 3


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
  """Reads in processes, which start with the first step that is asked for."""

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
    return workers.submit(self._pool, _read, task)

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
