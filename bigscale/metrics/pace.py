"""Measures the throughput of a repeated operation."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Pace:
  """Counts images and the seconds spent on them."""

  def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
    """Starts with no calls."""
    self._clock = clock
    self._calls: list[tuple[int, float]] = []

  def of(self, count: int, work: Callable[[], T]) -> T:
    """Runs `work`, which processes `count` images, and returns its result."""
    started = self._clock()
    result = work()
    self._calls.append((count, self._clock() - started))
    return result

  def over(
    self, batches: Iterable[tuple[Any, Any]]
  ) -> Iterator[tuple[Any, Any]]:
    """Yields (images, ...) batches and times how long each takes to produce."""
    remaining = iter(batches)
    while True:
      started = self._clock()
      try:
        batch = next(remaining)
      except StopIteration:
        return
      self._calls.append((len(batch[0]), self._clock() - started))
      yield batch

  def summary(self) -> dict[str, float]:
    """Returns total `seconds`, and `images_per_second` after compilation.

    The rate excludes the first call if there are others.
    """
    seconds = sum(spent for _, spent in self._calls)
    steady = self._calls[1:] or self._calls
    spent = sum(spent for _, spent in steady)
    images = sum(count for count, _ in steady)
    rate = images / spent if spent else 0.0
    return {"seconds": round(seconds, 3), "images_per_second": round(rate, 2)}
