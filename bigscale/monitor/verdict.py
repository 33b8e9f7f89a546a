"""Turns a run's scalars into a verdict, step by step, on the host.

Every signal is followed by itself (`monitor.signals`); the strongest of a
group speaks for the group; evidence of all groups is added up. One group alone
warns, two ask for a rollback, and one alone only where it is far away for long:
a GAN's losses spike often and recover, but samples, G's weights and the losses
seldom change at once without a reason. Numbers that are not finite need no
other evidence, nor does a D that is dead.

Pure Python, no arrays: a call costs microseconds, and the whole state is JSON.
"""

import bisect
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bigscale.monitor import dead
from bigscale.monitor.signals import GROUPS, Kind, Tracker, kind_of
from bigscale.spec.verdict import VerdictSpec

Level = Literal["ok", "warn", "rollback", "stop"]

# Part of a group's evidence with which it is named as a reason.
_WORTH_NAMING = 0.25
# Units of evidence from which on a reason has a say in the onset.
_DECIDES_ONSET = 0.5
# Values after which a signal in a run without losses is believed to be broken.
_BROKEN = 3
_NOT_FINITE = "not finite"


class Reason(NamedTuple):
  """One signal's part in a decision.

  Attributes:
    signal: its name.
    value: what it shows, the median of a block of steps.
    reference: what it is compared with; None where nothing was learned yet.
    rule: what it breaks, as a clause.
  """

  signal: str
  value: float
  reference: float | None
  rule: str

  def as_text(self) -> str:
    """For a terminal."""
    known = self.reference is not None
    usual = f"{self.reference:.4g}" if known else "unknown"
    return f"{self.signal} {self.value:.4g}, reference {usual} ({self.rule})"


class Decision(NamedTuple):
  """What the verdict says at a step.

  Attributes:
    step: the step.
    level: `ok`; `warn`; `rollback`: go back to a state before `onset`; `stop`:
      that was asked for in vain.
    onset: step at which the change began; None where all is well.
    reasons: the strongest first; those known when the level was entered.
    new: whether the level is another than at the step before.
  """

  step: int
  level: Level
  onset: int | None = None
  reasons: tuple[Reason, ...] = ()
  new: bool = False


class Verdict:
  """Judges a run by its scalars.

  Attributes:
    kinks, notes: see `__init__`; what was passed over, one sentence each.
    ignored: rows of an earlier step than the last one's, or of the same step
      with nothing new.
    judged: whether there was enough to judge by; until then only numbers that
      are not finite were looked for.
  """

  def __init__(self, spec: VerdictSpec, kinks: Sequence[int] = ()) -> None:
    """Starts with nothing known.

    Args:
      spec: windows and limits.
      kinks: steps at which a schedule bends; from each on, `spec.quiet` steps
        are not judged and references are learned anew.
    """
    self._spec = spec
    self.kinks = sorted(kinks)
    self._trackers: dict[str, Tracker] = {}
    self._members = dict.fromkeys(GROUPS, 0)
    self._block: dict[str, list[float]] = {}
    self._block_start = 0
    self._block_end = 0
    self._last = -1
    self._spacing = 1
    self._seen: set[str] = set()
    self._quiet = spec.warmup
    self._seen_vital = False
    self._broken: dict[str, int] = {}
    self._dead = 0
    self._hopeless_since: int | None = None
    self._entered = 0
    self._decision = Decision(-1, "ok")
    self.notes: list[str] = []
    self.ignored = 0
    self.judged = False

  def update(self, step: int, row: Mapping[str, Any]) -> Decision:
    """Takes what is known of a step.

    Args:
      step: steps done. A row of an earlier step than the last one's is passed
        over; one of the same step adds what is new in it, as scores are that
        an evaluation brings later.
      row: any subset of the signals; what is no number counts as missing.

    Returns:
      The decision; never raises because of what is in the row.
    """
    if step == self._last:
      row = {name: row[name] for name in row if name not in self._seen}
    if step < self._last or (step == self._last and not row):
      self.ignored += 1
      return self._decision._replace(new=False)
    if step > self._last >= 0:
      self._spacing = step - self._last
    self._start_quiet_at_kinks(step)
    self._seen = self._seen.union(row) if step == self._last else set(row)
    self._last = step
    self._open_block(step)
    broken = self._collect(row) + self._weigh_dead(row)
    if broken:
      return self._give_up(step, broken)
    self._hopeless_since = None
    # Rows may be sparse: the next one is not waited for.
    if step + self._spacing >= self._block_end:
      self._close_block()
      return self._decide(step)
    return self._keep(step)

  def quiet_until(self, step: int) -> None:
    """Forgets references and evidence, and judges again from that step on."""
    self._quiet = max(self._quiet, step)
    for tracker in self._trackers.values():
      tracker.forget()
    self._block = {}
    self._block_end = 0
    self._dead = 0
    self._hopeless_since = None
    if self._decision.level != "stop":
      self._decision = Decision(self._last, "ok")

  def get_state(self) -> dict[str, Any]:
    """All that was learned, as plain JSON."""
    return {
      "last": self._last,
      "spacing": self._spacing,
      "seen": sorted(self._seen),
      "quiet": self._quiet,
      "block": {name: list(v) for name, v in self._block.items()},
      "block_span": [self._block_start, self._block_end],
      "trackers": {n: t.get_state() for n, t in self._trackers.items()},
      "seen_vital": self._seen_vital,
      "broken": dict(self._broken),
      "dead": self._dead,
      "hopeless_since": self._hopeless_since,
      "entered": self._entered,
      "level": self._decision.level,
      "onset": self._decision.onset,
      "reasons": [
        [r.signal, _to_json(r.value), r.reference, r.rule]
        for r in self._decision.reasons
      ],
      "notes": list(self.notes),
      "ignored": self.ignored,
      "judged": self.judged,
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Goes on from what `get_state` gave, to the same decisions."""
    self._last = state["last"]
    self._spacing = state["spacing"]
    self._seen = set(state["seen"])
    self._quiet = state["quiet"]
    self._block = {name: list(v) for name, v in state["block"].items()}
    self._block_start, self._block_end = state["block_span"]
    self._trackers = {}
    self._members = dict.fromkeys(GROUPS, 0)
    for name, learned in state["trackers"].items():
      self._tracker(name).set_state(learned)
    self._seen_vital = state["seen_vital"]
    self._broken = dict(state["broken"])
    self._dead = state["dead"]
    self._hopeless_since = state["hopeless_since"]
    self._entered = state["entered"]
    reasons = tuple(
      Reason(signal, float(value), reference, rule)
      for signal, value, reference, rule in state["reasons"]
    )
    self._decision = Decision(
      self._last, state["level"], state["onset"], reasons
    )
    self.notes = list(state["notes"])
    self.ignored = state["ignored"]
    self.judged = state["judged"]

  def _start_quiet_at_kinks(self, step: int) -> None:
    first = bisect.bisect_right(self.kinks, self._last)
    passed = self.kinks[first : bisect.bisect_right(self.kinks, step)]
    if passed:
      self.quiet_until(passed[-1] + self._spec.quiet)

  def _open_block(self, step: int) -> None:
    """Begins a block unless one is open; one overrun by a gap is judged."""
    if step < self._block_end:
      return
    self._close_block()
    spec = self._spec
    size = max(spec.block, int(step * spec.block_fraction))
    self._block_start, self._block_end = step, step + size

  def _collect(self, row: Mapping[str, Any]) -> list[Reason]:
    """Puts a row's numbers into the block; returns what is broken in it."""
    reasons = []
    block = self._block
    for name, value in row.items():
      if type(value) is not float:
        if not isinstance(value, numbers.Real) or isinstance(value, bool):
          self._note(f"{name} is not always a number: passed over there")
          continue
        value = float(value)
      if name.endswith("/nonfinite"):
        if value:
          reasons.append(Reason(name, value, 0.0, _NOT_FINITE))
        continue
      kind = kind_of(name)
      if kind is None:
        continue
      if not math.isfinite(value):
        reasons += self._weigh_not_finite(name, value, kind)
        continue
      self._broken.pop(name, None)
      if kind.skip_zero and not value:
        continue
      self._seen_vital |= kind.vital
      block.setdefault(name, []).append(value)
    self._add_logit_gap(row)
    return reasons

  def _add_logit_gap(self, row: Mapping[str, Any]) -> None:
    real, fake = row.get("d/logit_real"), row.get("d/logit_fake")
    try:
      gap = float(real - fake)
    except (TypeError, ValueError):
      return
    if math.isfinite(gap):
      self._block.setdefault("d/logit_gap", []).append(gap)

  def _weigh_not_finite(
    self, name: str, value: float, kind: Kind
  ) -> list[Reason]:
    if not kind.vital:
      self._broken[name] = self._broken.get(name, 0) + 1
      if self._seen_vital or self._broken[name] < _BROKEN:
        self._note(f"{name} is not always finite: passed over there")
        return []
    tracker = self._trackers.get(name)
    known = tracker is not None and not math.isnan(tracker.last)
    reference = tracker.last if known else None
    return [Reason(name, value, reference, _NOT_FINITE)]

  def _weigh_dead(self, row: Mapping[str, Any]) -> list[Reason]:
    if "d/grad_norm" in row:
      self._dead = self._dead + 1 if dead.is_dead(row) else 0
    if self._dead < dead.ROWS or "d/grad_norm" not in row:
      return []
    rule = f"zero, every logit {row['d/logit_real']:.4g}"
    return [Reason("d/grad_norm", 0.0, None, rule)]

  def _note(self, note: str) -> None:
    if note not in self.notes:
      self.notes.append(note)

  def _tracker(self, name: str) -> Tracker:
    tracker = self._trackers.get(name)
    if tracker is None:
      kind = kind_of(name)
      tracker = self._trackers[name] = Tracker(kind, self._spec)
      self._members[kind.group] += 1
    return tracker

  def _close_block(self) -> None:
    judge = self._block_start >= self._quiet
    for name, values in self._block.items():
      values.sort()
      median = values[len(values) // 2]
      tracker = self._tracker(name)
      self.judged |= tracker.add(median, self._block_start, judge=judge)
    self._block = {}
    self._block_end = 0

  def _strongest(self) -> dict[str, tuple[float, str]]:
    """By group, its evidence and the signal that gives it."""
    found: dict[str, tuple[float, str]] = {}
    for name, tracker in self._trackers.items():
      if tracker.calm:
        continue
      group = tracker.kind.group
      if tracker.alone:
        strength = self._spec.rollback
      else:
        strength = GROUPS[group] * tracker.evidence(self._members[group])
      if strength > found.get(group, (0.0, ""))[0]:
        found[group] = strength, name
    return found

  def _decide(self, step: int) -> Decision:
    spec, level = self._spec, self._decision.level
    groups = self._strongest()
    total = sum(strength for strength, _ in groups.values())
    if level == "stop":
      return self._keep(step)
    if level == "rollback" and total >= spec.leave * spec.rollback:
      if step - self._entered >= spec.stop_after:
        return self._enter(step, "stop", self._decision)
      return self._keep(step)
    if total >= spec.rollback:
      return self._enter(step, "rollback", self._reasons(groups))
    if total >= spec.warn * (spec.leave if level == "warn" else 1.0):
      if level == "warn":
        return self._keep(step)
      return self._enter(step, "warn", self._reasons(groups))
    return self._keep(step) if level == "ok" else self._enter(step, "ok")

  def _reasons(self, groups: dict[str, tuple[float, str]]) -> Decision:
    """Onset and reasons of what the groups say."""
    named = sorted(
      (
        (strength, name)
        for group, (strength, name) in groups.items()
        if strength >= _WORTH_NAMING * GROUPS[group]
      ),
      reverse=True,
    )
    trackers = [(name, self._trackers[name]) for _, name in named]
    # A small part of the evidence may have crept along for long before.
    large = [n for strength, n in named if strength >= _DECIDES_ONSET]
    onsets = [self._trackers[name].onset for name in large]
    return Decision(
      self._last,
      "ok",
      min(onsets or [t.onset for _, t in trackers], default=None),
      tuple(Reason(n, t.last, t.reference, t.rule) for n, t in trackers),
    )

  def _enter(
    self, step: int, level: Level, why: Decision | None = None
  ) -> Decision:
    onset, reasons = (why.onset, why.reasons) if why else (None, ())
    self._entered = step
    self._decision = Decision(step, level, onset, reasons, True)
    return self._decision

  def _keep(self, step: int) -> Decision:
    self._decision = self._decision._replace(step=step, new=False)
    return self._decision

  def _give_up(self, step: int, reasons: list[Reason]) -> Decision:
    """An immediate rollback; a stop where it lasts."""
    if self._hopeless_since is None:
      self._hopeless_since = step
    level = self._decision.level
    if level == "stop":
      return self._keep(step)
    if step - self._hopeless_since >= self._spec.stop_after_nonfinite:
      return self._enter(step, "stop", self._decision)
    if level == "rollback":
      return self._keep(step)
    suspected = self._reasons(self._strongest())
    # It takes a D some steps to die.
    dying = self._dead * self._spacing + self._spec.block if self._dead else 0
    since = max(step - dying, 0)
    # What is no more than noise in some signal may be hundreds of steps old.
    onset = since if level == "ok" else min(since, self._decision.onset)
    told = {reason.signal for reason in reasons}
    others = (one for one in suspected.reasons if one.signal not in told)
    why = Decision(step, level, onset, (*reasons, *others))
    return self._enter(step, "rollback", why)


def _to_json(value: float) -> float | str:
  """A number, or the name of one that JSON does not have."""
  return value if math.isfinite(value) else str(value)
