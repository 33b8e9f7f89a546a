"""Measures the times of single steps and of compilation, and the memory."""

import time
from collections.abc import Callable, Iterable
from typing import Any

_GIB = 2**30
_QUANTILES = (50, 90)


class StepTimes:
  """Collects the times between steps since the last row of metrics."""

  def __init__(
    self,
    devices: Iterable[Any] = (),
    clock: Callable[[], float] = time.perf_counter,
  ) -> None:
    """Initializes without any step.

    Args:
      devices: devices of this process whose memory is reported.
      clock: monotonic clock in seconds.
    """
    self._devices = list(devices)
    self._clock = clock
    self._last: float | None = None
    self._seconds: list[float] = []
    self._compiled: float | None = None

  def finished(self) -> None:
    """Notes that a step has finished."""
    now = self._clock()
    if self._last is not None:
      self._seconds.append(now - self._last)
    self._last = now

  def paused(self) -> None:
    """Excludes the time until the next step, because something else ran."""
    self._last = None

  def compiled(self, seconds: float) -> None:
    """Adds seconds of compilation to the next row."""
    self._compiled = (self._compiled or 0.0) + seconds

  def columns(self) -> dict[str, float]:
    """Returns scalars for a row of metrics, and begins the next row.

    perf/step_p50, perf/step_p90, perf/step_max: quantiles of the seconds of the
      steps since the last row.
    perf/compile_seconds: seconds of compilation, in the first row of a start.
    perf/hbm_peak_gib: largest memory in use on a device of this process so far;
      only on devices that report it.
    """
    found = {}
    times, self._seconds = sorted(self._seconds), []
    if times:
      for percent in _QUANTILES:
        found[f"perf/step_p{percent}"] = _quantile(times, percent / 100)
      found["perf/step_max"] = times[-1]
    if self._compiled is not None:
      found["perf/compile_seconds"] = self._compiled
      self._compiled = None
    peaks = [_peak_bytes(device) for device in self._devices]
    if any(peaks):
      found["perf/hbm_peak_gib"] = max(peaks) / _GIB
    return found


def _quantile(ordered: list[float], share: float) -> float:
  """Returns the smallest value that is at least this share of the values."""
  return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _peak_bytes(device: Any) -> int:
  """Returns the peak memory of a device; 0 if it is unknown, as on CPUs."""
  stats = device.memory_stats() or {}
  return int(stats.get("peak_bytes_in_use", 0))
