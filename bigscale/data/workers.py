"""Runs a function over many tasks in worker processes."""

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
  FIRST_COMPLETED,
  Future,
  ProcessPoolExecutor,
  wait,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from bigscale.data.manifest import DataError

# Object that all tasks of this worker share, sent once because it may be large.
_shared: collections.deque[Any] = collections.deque(maxlen=1)


def each(
  function: Callable[[Any, Any], Any],
  shared: Any,
  tasks: Iterable[Any],
  workers: int,
) -> Iterator[Any]:
  """Yields `function(shared, task)` of every task, in order of completion.

  Processes are spawned and inherit nothing, so a script that calls this needs
  `if __name__ == "__main__":`. They end when this process ends, even if it is
  killed.

  Args:
    function: module-level function, so that other processes can import it.
    shared: first argument of every call; picklable.
    tasks: tasks, consumed lazily.
    workers: number of processes; 1 runs everything in this process.

  Raises:
    DataError: a worker was killed. Exceptions of `function` are raised as well.
  """
  if workers == 1:
    for task in tasks:
      yield function(shared, task)
    return
  tasks = iter(tasks)
  pool = open_pool(shared, workers)
  waiting: set[Future] = set()
  try:
    # Submit few tasks at a time, so that a million tasks are not in memory.
    for task in itertools.islice(tasks, 2 * workers):
      waiting.add(submit(pool, function, task))
    while waiting:
      done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
      for task in itertools.islice(tasks, len(done)):
        waiting.add(submit(pool, function, task))
      for future in done:
        yield future.result()
  except BrokenProcessPool as error:
    raise DataError(
      f"one of {workers} workers was killed, perhaps because memory ran out; "
      "start again with fewer workers: finished work is kept"
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def open_pool(shared: Any, workers: int) -> ProcessPoolExecutor:
  """Opens processes for `submit`, spawned as needed; see `each`."""
  context = multiprocessing.get_context("spawn")
  return ProcessPoolExecutor(workers, context, _start, (shared,))


def submit(
  pool: ProcessPoolExecutor, function: Callable[[Any, Any], Any], task: Any
) -> Future:
  """Submits `function(shared, task)` to one of a pool's processes."""
  return pool.submit(_call, function, task)


def _start(shared: Any) -> None:
  _shared.append(shared)
  # Ctrl-C reaches every process of a terminal, but only the parent handles it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _call(function: Callable[[Any, Any], Any], task: Any) -> Any:
  return function(_shared[0], task)
