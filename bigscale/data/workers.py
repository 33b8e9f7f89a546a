"""The same work over many tasks, in processes of its own."""

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

# What every task of this worker shares: sent once, for it may be large.
_shared: collections.deque[Any] = collections.deque(maxlen=1)


def each(
  function: Callable[[Any, Any], Any],
  shared: Any,
  tasks: Iterable[Any],
  workers: int,
) -> Iterator[Any]:
  """Yields `function(shared, task)` of every task, as they are done.

  Processes are spawned, so that nothing is inherited: a script that calls this
  needs `if __name__ == "__main__":`. They end when this one does, even killed.

  Args:
    function: of a module, for other processes to find.
    shared: given to every call; picklable.
    tasks: drawn as they are needed.
    workers: processes; with 1 everything runs in this one.

  Raises:
    DataError: a worker was killed. Also whatever `function` raises.
  """
  if workers == 1:
    for task in tasks:
      yield function(shared, task)
    return
  tasks = iter(tasks)
  pool = open_pool(shared, workers)
  waiting: set[Future] = set()
  try:
    # Few at a time: a million tasks are not held in memory.
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
      f"one of {workers} workers was killed, perhaps for want of memory; start "
      "again with fewer workers: what is finished is kept"
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def open_pool(shared: Any, workers: int) -> ProcessPoolExecutor:
  """Processes for `submit`, spawned as they are needed; see `each`."""
  context = multiprocessing.get_context("spawn")
  return ProcessPoolExecutor(workers, context, _start, (shared,))


def submit(
  pool: ProcessPoolExecutor, function: Callable[[Any, Any], Any], task: Any
) -> Future:
  """Has `function(shared, task)` called in one of a pool's processes."""
  return pool.submit(_call, function, task)


def _start(shared: Any) -> None:
  _shared.append(shared)
  # Ctrl-C reaches every process of a terminal; the parent answers for all.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)


def _call(function: Callable[[Any, Any], Any], task: Any) -> Any:
  return function(_shared[0], task)
