"""Finds slow hosts by comparing how long each host works.

All processes take the same time per step, because they wait for each other. The
slowest one waits least: it spends the most time on its own work.
"""

import statistics
import time

from bigscale.parallel.watch import Host, Watch

# Minimum interval. Hosts report once a second, which limits the precision.
_SECONDS = 20.0


class Stragglers:
  """Compares hosts at an interval."""

  def __init__(self, watch: Watch) -> None:
    """Initializes the comparison."""
    self._watch = watch
    self._before: dict[int, Host] = {}
    self._compared = time.monotonic()

  def columns(self) -> dict[str, float]:
    """Returns scalars for a row of metrics, or {}.

    They are returned every 20 s in a run with several hosts:

    hosts/busy_median, hosts/busy_max: seconds per step that the median host and
      the busiest host work, mostly on loading data.
    hosts/busiest: index of the busiest host.
    """
    now = time.monotonic()
    if now - self._compared < _SECONDS:
      return {}
    self._compared = now
    before, self._before = self._before, self._watch.hosts()
    busy = {
      n: (host.busy - before[n].busy) / (host.step - before[n].step)
      for n, host in self._before.items()
      if n in before and host.step > before[n].step
    }
    if len(busy) < 2:
      return {}
    slowest = max(busy, key=lambda n: busy[n])
    return {
      "hosts/busy_median": statistics.median(busy.values()),
      "hosts/busy_max": busy[slowest],
      "hosts/busiest": float(slowest),
    }
