"""Simulates a run with faults as a sequence of discrete events.

The run trains until the next of: a save, an evaluation, a fault, or a change of
its speed by a slow host. After a fault, the processes end, are replaced, start,
restore the newest checkpoint that survived the fault, and compile. Faults can
also strike while the run is down, saves or evaluates.
"""

import dataclasses
import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence

from bigscale.plan.goodput.system import Fault, System, Tier

# The names are those of `report.goodput`. Slow hosts are not in its table.
CATEGORIES = (
  "step",
  "redone",
  "slow",
  "checkpoint",
  "evaluate",
  "down",
  "start",
  "restore",
  "compile",
)
# Bounds the time of a simulation of a machine whose faults are rare.
_MAX_EVENTS = 50_000
# A save counts as due up to this many seconds early, because work is a sum of
# rounded floats.
_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Result of a simulation.

  Attributes:
    seconds: seconds by category of `CATEGORIES`. `step` counts only work that
      was not lost, at full speed.
    faults: number of faults by name.
  """

  seconds: Mapping[str, float]
  faults: Mapping[str, int]

  @property
  def total(self) -> float:
    """Seconds of the whole run."""
    return sum(self.seconds.values())

  @property
  def goodput(self) -> float:
    """Share of the time that is work which was not lost."""
    return self.seconds["step"] / self.total if self.total else 0.0

  @property
  def shares(self) -> dict[str, float]:
    """Shares of the time by category."""
    whole = self.total or 1.0
    return {name: value / whole for name, value in self.seconds.items()}


def simulate(
  system: System,
  *,
  seed: int = 0,
  faults: int = 500,
  work: float = math.inf,
  times: Mapping[str, Sequence[float]] | None = None,
) -> Outcome:
  """Simulates a run from its first start.

  Args:
    system: the run and the machine.
    seed: seed of the faults. Systems with the same faults and seed meet the
      same faults at the same times.
    faults: number of faults after which the simulation ends.
    work: work after which the simulation ends, in seconds.
    times: seconds from the first start at which faults strike, by name of the
      fault, instead of random ones.

  Returns:
    The time by category. After too many events, the simulation ends early.
  """
  return _Run(system, seed, times).until(faults, work)


class _FaultError(Exception):
  """A fault ends what the run is doing."""

  def __init__(self, fault: Fault) -> None:
    super().__init__(fault.name)
    self.fault = fault


class _Run:
  """The state of a simulated run.

  All randomness is in the arrival times, which do not depend on the run.
  """

  def __init__(
    self,
    system: System,
    seed: int,
    times: Mapping[str, Sequence[float]] | None = None,
  ) -> None:
    self._system = system
    self._seconds = dict.fromkeys(CATEGORIES, 0.0)
    self._faults = {fault.name: 0 for fault in system.faults}
    self._now = 0.0
    self._work = 0.0
    # Work of the newest complete checkpoint of each tier; None if it has none.
    self._saved: dict[str, float | None] = {t.name: None for t in system.tiers}
    # Completion time and work of the checkpoint that each tier is writing.
    self._writing: dict[str, tuple[float, float]] = {}
    self._arrivals = {
      fault.name: _arrivals(fault, seed)
      if times is None
      else iter(times.get(fault.name, ()))
      for fault in system.faults
    }
    self._next = [
      (next(self._arrivals[fault.name], math.inf), index)
      for index, fault in enumerate(system.faults)
    ]
    heapq.heapify(self._next)
    self._slow = random.Random(f"{seed} slow")
    self._slow_until = -math.inf
    self._slow_next = self._next_straggler(0.0)

  def until(self, faults: int, work: float) -> Outcome:
    """Runs until this number of faults or this work."""
    fault: Fault | None = None
    starting = True
    for _ in range(_MAX_EVENTS):
      if self._work >= work or sum(self._faults.values()) >= faults:
        break
      try:
        if starting:
          self._restart(fault)
          starting = False
        self._skip(work)
        if self._work < work:
          self._train(min(self._next_due(), work))
          self._pause()
      except _FaultError as error:
        fault, starting = error.fault, True
        self._lose(fault)
    return Outcome(self._seconds, self._faults)

  def _restart(self, fault: Fault | None) -> None:
    """Starts the processes and restores; `fault` is None at the first start."""
    if fault is not None:
      self._spend("down", fault.detect + fault.replace)
    self._spend("start", self._system.start)
    if (tier := self._newest()) is not None:
      self._spend("restore", tier.restore)
    self._spend("compile", self._system.compile)

  def _skip(self, limit: float) -> None:
    """Skips whole intervals before the next fault.

    If no save waits for another and no host is slow, their time is a sum. The
    result is the same as that of the single events, without their number.

    Args:
      limit: maximum work.
    """
    tiers = [t for t in self._system.tiers if math.isfinite(t.interval)]
    waits = any(tier.write > tier.interval for tier in tiers)
    if self._system.stragglers.rate or waits or not tiers or self._writing:
      return
    interval = min(tier.interval for tier in tiers)
    until = self._next[0][0] if self._next else math.inf
    room = min(until - self._now, limit - self._work)
    if not math.isfinite(room):
      return
    # Each kind of pause happens once more or less often than its mean.
    costs = [(seconds, every) for _, seconds, every in self._kinds() if seconds]
    once = sum(seconds for seconds, _ in costs)
    pace = 1 + sum(seconds / every for seconds, every in costs)
    low = _count(interval, self._work + max(0.0, room - once) / pace)
    high = _count(interval, min(limit, self._work + (room + once) / pace))
    while low < high:
      middle = (low + high + 1) // 2
      if self._now + self._elapsed(middle * interval) < until:
        low = middle
      else:
        high = middle - 1
    if low * interval > self._work:
      self._jump(low * interval)

  def _elapsed(self, work: float) -> float:
    """Returns the seconds until the pause after this work has ended."""
    passed = work - self._work
    return passed + sum(cost * n for _, cost, n in self._pauses(work))

  def _pauses(self, work: float) -> list[tuple[str, float, int]]:
    """Returns category, seconds and number of the pauses up to a work."""
    return [
      (name, seconds, _count(every, work) - _count(every, self._work))
      for name, seconds, every in self._kinds()
    ]

  def _kinds(self) -> list[tuple[str, float, float]]:
    """Returns category, seconds and interval of the kinds of pauses."""
    system = self._system
    kinds = [
      ("evaluate", system.evaluation, system.evaluation_interval),
      *(("checkpoint", t.blocking, t.interval) for t in system.tiers),
    ]
    return [kind for kind in kinds if math.isfinite(kind[2])]

  def _jump(self, work: float) -> None:
    """Continues after the pause at a work, as if all before it had happened."""
    seconds = self._elapsed(work)
    for at, tier in enumerate(self._system.tiers):
      if not math.isfinite(tier.interval):
        continue
      count = _count(tier.interval, work)
      if count == _count(tier.interval, self._work):
        continue
      last = count * tier.interval
      # Tiers are saved one after another.
      since = seconds - self._elapsed(last)
      since += sum(
        other.blocking
        for other in self._system.tiers[at + 1 :]
        if _is_due(other.interval, last)
      )
      if count - 1 > _count(tier.interval, self._work):
        self._saved[tier.name] = (count - 1) * tier.interval
      self._writing[tier.name] = (
        self._now + seconds - since + tier.write,
        last,
      )
    for category, cost, count in self._pauses(work):
      self._seconds[category] += cost * count
    self._seconds["step"] += work - self._work
    self._now += seconds
    self._work = work
    self._complete()

  def _train(self, until: float) -> None:
    """Trains until the work is `until`."""
    while self._work < until:
      self._update_speed()
      slow = self._now < self._slow_until
      speed = 1 / self._system.stragglers.slowdown if slow else 1.0
      change = self._slow_until if slow else self._slow_next
      needed = (until - self._work) / speed
      seconds = min(needed, change - self._now)
      started = self._now
      try:
        self._advance(seconds)
      finally:
        passed = self._now - started
        self._work += passed * speed
        self._seconds["step"] += passed * speed
        self._seconds["slow"] += passed * (1 - speed)
      if seconds == needed:
        self._work = until

  def _pause(self) -> None:
    """Evaluates and saves what is due."""
    if _is_due(self._system.evaluation_interval, self._work):
      self._spend("evaluate", self._system.evaluation)
    for tier in self._system.tiers:
      if _is_due(tier.interval, self._work):
        self._save(tier)

  def _save(self, tier: Tier) -> None:
    done, _ = self._writing.get(tier.name, (-math.inf, 0.0))
    self._spend("checkpoint", max(0.0, done - self._now) + tier.blocking)
    self._complete()
    self._writing[tier.name] = (self._now + tier.write, self._work)
    self._complete()

  def _complete(self) -> None:
    """Marks the checkpoints that are written by now as complete."""
    for name, (done, work) in list(self._writing.items()):
      if done <= self._now:
        self._saved[name] = work
        del self._writing[name]

  def _lose(self, fault: Fault) -> None:
    """Loses the work since the newest checkpoint that a fault has left."""
    self._faults[fault.name] += 1
    self._complete()
    self._writing.clear()
    for tier in self._system.tiers:
      if fault.name in tier.lost_by:
        self._saved[tier.name] = None
    if fault.warned:
      self._save_last(fault)
    tier = self._newest()
    kept = 0.0 if tier is None else self._saved[tier.name] or 0.0
    lost = self._work - kept
    self._seconds["step"] -= lost
    self._seconds["redone"] += lost
    self._work = kept

  def _save_last(self, fault: Fault) -> None:
    """Saves the state after a warning; other faults do not interrupt it."""
    intact = [t for t in self._system.tiers if fault.name not in t.lost_by]
    if not intact or self._saved[intact[0].name] == self._work:
      return
    seconds = intact[0].blocking + intact[0].write
    self._now += seconds
    self._seconds["checkpoint"] += seconds
    self._saved[intact[0].name] = self._work

  def _newest(self) -> Tier | None:
    """Returns the first tier with the newest checkpoint, or None."""
    found = [t for t in self._system.tiers if self._saved[t.name] is not None]
    return max(found, key=lambda tier: self._saved[tier.name], default=None)

  def _next_due(self) -> float:
    """Returns the work at which the next save or evaluation is due."""
    every = [tier.interval for tier in self._system.tiers]
    every.append(self._system.evaluation_interval)
    return min(
      (_count(interval, self._work) + 1) * interval
      if interval < math.inf
      else math.inf
      for interval in every
    )

  def _spend(self, category: str, seconds: float) -> None:
    started = self._now
    try:
      self._advance(seconds)
    finally:
      self._seconds[category] += self._now - started

  def _advance(self, seconds: float) -> None:
    """Moves the clock; raises `_FaultError` at the first fault.

    Faults that arrive while the clock stands still strike at once.
    """
    at = self._next[0][0] if self._next else math.inf
    if math.isinf(at) and math.isinf(seconds):
      raise ValueError("a run without saves, faults and an end never ends")
    if at > self._now + seconds:
      self._now += seconds
      return
    _, index = heapq.heappop(self._next)
    fault = self._system.faults[index]
    self._now = max(self._now, at)
    following = next(self._arrivals[fault.name], math.inf)
    heapq.heappush(self._next, (following, index))
    raise _FaultError(fault)

  def _update_speed(self) -> None:
    """Starts the slow hosts that have arrived by now."""
    while self._slow_next <= self._now:
      end = self._slow_next + self._system.stragglers.duration
      self._slow_until = max(self._slow_until, end)
      self._slow_next = self._next_straggler(self._slow_next)

  def _next_straggler(self, at: float) -> float:
    rate = self._system.stragglers.rate
    return at + self._slow.expovariate(rate) if rate else math.inf


def _arrivals(fault: Fault, seed: int) -> Iterator[float]:
  """Yields the times of the faults of a kind."""
  stream, now = random.Random(f"{seed} fault {fault.name}"), 0.0
  while fault.rate:
    now += stream.expovariate(fault.rate)
    yield now


def _count(interval: float, work: float) -> int:
  """Returns the number of whole intervals in the work."""
  return math.floor((work + _TOLERANCE * max(1.0, work)) / interval)


def _is_due(interval: float, work: float) -> bool:
  """Returns whether the work is a multiple of the interval."""
  if not math.isfinite(interval):
    return False
  nearest = round(work / interval)
  distance = abs(work - nearest * interval)
  return nearest > 0 and distance <= 2 * _TOLERANCE * max(1.0, work)
