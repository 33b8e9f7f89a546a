"""Turns a run's scalars into a verdict, step by step, on the host.

Each column is compared with its own past (`monitor.scan`). The evidence of a
group is that of its strongest column, and each group has an equal share of the
false-alarm rate. Groups whose columns also shift in healthy runs need the
evidence of a second group, unless no other group is watched. A value that is
not finite, a dead discriminator or a frozen player is an alarm by itself.

The state is plain JSON. A resumed run that restores it makes the same decisions
as an uninterrupted run.
"""

import bisect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from bigscale.monitor import dead
from bigscale.monitor.column_signal import Signal
from bigscale.monitor.columns import Kind, kind_of, size_of, with_logit_gap
from bigscale.monitor.evidence import Group, frozen, strongest, total
from bigscale.monitor.known_signal import KnownSignal
from bigscale.monitor.scales import Scales
from bigscale.spec.verdict import VerdictSpec

Level = Literal["ok", "warn", "rollback"]

# A warning ends when its evidence is this many nats below the required one.
_SLACK = 2.0
# Maximum evidence for which a reason states the exact rate: once in 1e9 rows.
_CERTAIN = math.log(1e9)
# Minimum evidence of a group that is listed as a reason: once in 10 rows.
_NAMED = math.log(10)
# Number of consecutive values that are not finite after which a column that is
# not vital causes an alarm.
_BROKEN = 3
# Version of the format of `Verdict.get_state`.
_VERSION = 5


class Reason(NamedTuple):
  """One signal that led to a decision.

  Attributes:
    signal: name of the column.
    value: recent level of the signal.
    reference: earlier level of the signal; None if unknown.
    rule: what is wrong with the signal, as a clause.
  """

  signal: str
  value: float
  reference: float | None
  rule: str

  def as_text(self) -> str:
    """Returns the reason in one line."""
    known = self.reference is not None
    before = f"{self.reference:.4g}" if known else "unknown"
    return f"{self.signal} {self.value:.4g}, before {before} ({self.rule})"


class Decision(NamedTuple):
  """The verdict at a step.

  Attributes:
    step: the step.
    level: `ok`, `warn`, or `rollback`, a request to return to a state before
      `onset`.
    onset: step at which the change began; None at `ok`.
    reasons: signals that show the change, the strongest first, with their
      values at the step at which the level began.
    new: whether this row changed the level, or contained the first value that
      is not finite.
  """

  step: int
  level: Level
  onset: int | None = None
  reasons: tuple[Reason, ...] = ()
  new: bool = False


class Verdict:
  """Judges a run by its scalars.

  Attributes:
    kinks: steps at which declared changes take place, in ascending order.
    notes: messages about values that were skipped.
    ignored: number of rows that were skipped. A row is skipped if its step is
      earlier than the last row's, or if the step is the same and no column is
      new.
    judged: whether any column has had enough past values to be judged. Until
      then only values that are not finite and a dead discriminator cause an
      alarm.
    evidence: evidence of each group at the last row, in nats; see
      `evidence.Group`.
  """

  def __init__(self, spec: VerdictSpec, kinks: Sequence[int] = ()) -> None:
    """Starts without a past.

    Args:
      spec: settings of the verdict.
      kinks: steps at which the run is changed on purpose. Rows before and after
        such a step are not compared.
    """
    self._spec = spec
    self._needed = {
      "warn": math.log(spec.warn_rows),
      "rollback": math.log(spec.rollback_rows),
    }
    self.kinks = sorted(kinks)
    self._scales = Scales()
    self._signals: dict[str, Signal] = {}
    self._first: int | None = None
    self._last = -1
    self._rows = 0
    self._seen: set[str] = set()
    self._quiet = 0
    self._is_broken = False
    self._dead = 0
    self._decision = Decision(-1, "ok")
    self.notes: list[str] = []
    self.ignored = 0
    self.judged = False
    self.evidence: dict[str, float] = {}

  def update(self, step: int, row: Mapping[str, Any]) -> Decision:
    """Judges a row of scalars.

    Args:
      step: number of steps done. A row of an earlier step than the last row's
        is skipped. A row of the same step adds only its new columns, such as
        the scores of an evaluation.
      row: any subset of the columns. Values that are not numbers are skipped.

    Returns:
      The decision. No value in a row raises an exception.
    """
    if step == self._last:
      row = {name: row[name] for name in row if name not in self._seen}
    if step < self._last or (step == self._last and not row):
      self.ignored += 1
      return self._decision._replace(new=False)
    added = step == self._last
    self._rows += not added
    self._cut_at_kinks(step)
    self._seen = self._seen.union(row) if added else set(row)
    self._first = step if self._first is None else self._first
    self._last = step
    broken = self._collect(step, row) + self._check_dead(step, row)
    if broken:
      return self._take_broken(step, broken)
    if added and self._is_broken:
      # Scores of a broken step do not mend it.
      return self._keep(step)
    self._is_broken = False
    early = step < max(self._quiet, self._spec.warmup)
    return self._decide(step, self._known() if early else self._signals)

  def quiet_until(self, step: int) -> None:
    """Skips rows before `step`, and compares later rows only with each other.

    The estimates of each signal's noise are kept.
    """
    self._quiet = max(self._quiet, step)
    self._scales.cut()
    for signal in self._signals.values():
      signal.cut()
    self._dead = 0
    self._is_broken = False
    self.evidence = {}
    self._decision = Decision(self._last, "ok")

  def get_state(self) -> dict[str, Any]:
    """Returns the state as plain JSON."""
    decision = self._decision
    return {
      "version": _VERSION,
      "first": self._first,
      "last": self._last,
      "rows": self._rows,
      "seen": sorted(self._seen),
      "quiet": self._quiet,
      "signals": {n: s.get_state() for n, s in self._signals.items()},
      "scales": self._scales.get_state(),
      "is_broken": self._is_broken,
      "dead": self._dead,
      "level": decision.level,
      "onset": decision.onset,
      "reasons": [
        [r.signal, _to_json(r.value), _to_json(r.reference), r.rule]
        for r in decision.reasons
      ],
      "notes": list(self.notes),
      "ignored": self.ignored,
      "judged": self.judged,
      "evidence": dict(self.evidence),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned.

    The state of a version with another method is ignored, and the verdict
    learns from the following rows alone.
    """
    if state.get("version") != _VERSION:
      self._last = state["last"]
      self.notes.append(
        "the verdict's state was saved by an earlier version and is ignored"
      )
      return
    self._first = state["first"]
    self._last = state["last"]
    self._rows = state["rows"]
    self._seen = set(state["seen"])
    self._quiet = state["quiet"]
    self._signals = {}
    for name, learned in state["signals"].items():
      self._signals[name] = self._new_signal(kind_of(name))
      self._signals[name].set_state(learned)
    self._scales.set_state(state["scales"])
    self._is_broken = state["is_broken"]
    self._dead = state["dead"]
    reasons = tuple(
      Reason(name, float(value), None if base is None else float(base), rule)
      for name, value, base, rule in state["reasons"]
    )
    self._decision = Decision(
      self._last, state["level"], state["onset"], reasons
    )
    self.notes = list(state["notes"])
    self.ignored = state["ignored"]
    self.judged = state["judged"]
    self.evidence = dict(state["evidence"])

  def _new_signal(self, kind: Kind) -> Signal:
    if kind.known:
      return KnownSignal(kind, self._spec.smallest_shift, self._scales)
    return Signal(kind, self._spec.smallest_rise, self._scales)

  def _cut_at_kinks(self, step: int) -> None:
    first = bisect.bisect_right(self.kinks, self._last)
    passed = self.kinks[first : bisect.bisect_right(self.kinks, step)]
    if passed:
      self.quiet_until(passed[-1] + self._spec.quiet)

  def _collect(self, step: int, row: Mapping[str, Any]) -> list[Reason]:
    """Adds a row's values to their signals, and returns those not finite."""
    broken = []
    for name, value in with_logit_gap(row).items():
      if not isinstance(value, numbers.Real) or isinstance(value, bool):
        self._note(f"values of {name} that are not numbers are skipped")
        continue
      value = float(value)
      if name.endswith("nonfinite") and value:
        broken.append(Reason(name, value, 0.0, "not finite"))
      kind = kind_of(name)
      if kind is None:
        continue
      signal = self._signals.get(name)
      if signal is None:
        signal = self._signals[name] = self._new_signal(kind)
      if not math.isfinite(value):
        broken += self._count_broken(name, value, signal)
      elif step >= self._quiet or kind.known:
        signal.add(value, step, self._rows)
        if kind.known:
          signal.size = float(row.get(size_of(name), math.nan))
    self._scales.add(step)
    return broken

  def _count_broken(
    self, name: str, value: float, signal: Signal
  ) -> list[Reason]:
    signal.lost += 1
    known = None if math.isnan(signal.last) else signal.last
    reason = [Reason(name, value, known, "not finite")]
    if signal.kind.vital:
      return reason
    self._note(f"values of {name} that are not finite are skipped")
    # An unknown column may be unimportant, and a probe of samples may fail by
    # itself.
    believed = signal.kind.group != "other" and signal.kind.group != "samples"
    return reason if believed and signal.lost >= _BROKEN else []

  def _check_dead(self, step: int, row: Mapping[str, Any]) -> list[Reason]:
    if "d/grad_norm" not in row:
      return []
    self._dead = self._dead + 1 if dead.is_dead(row) else 0
    if self._dead < dead.ROWS:
      return []
    rule = f"zero, every logit {row['d/logit_real']:.4g}"
    return [Reason("d/grad_norm", 0.0, None, rule)]

  def _note(self, note: str) -> None:
    if note not in self.notes:
      self.notes.append(note)

  def _known(self) -> dict[str, KnownSignal]:
    """Returns the signals that need no past."""
    return {
      name: signal
      for name, signal in self._signals.items()
      if isinstance(signal, KnownSignal)
    }

  def _weigh(self, signals: Mapping[str, Signal]) -> list[Group]:
    for signal in self._known().values():
      signal.expire(self._rows)
    found = strongest(signals)
    self.evidence = {one.group: one.evidence for one in found}
    self.judged = self.judged or any(s.judged for s in signals.values())
    return found

  def _decide(self, step: int, signals: Mapping[str, Signal]) -> Decision:
    held = frozen(signals, self._needed["rollback"])
    if held:
      first = self._signals[held[0]]
      reasons = tuple(
        Reason(n, self._signals[n].last, None, "repeats the same value")
        for n in held
      )
      return self._enter(step, "rollback", lambda: first.since, reasons)
    found = self._weigh(signals)
    level = self._decision.level
    if level != "rollback" and total(found) >= self._needed["rollback"]:
      level = "rollback"
    elif not found or found[0].evidence < self._needed["warn"] - _SLACK:
      level = "ok"
    elif level == "ok" and found[0].evidence >= self._needed["warn"]:
      level = "warn"
    if level == "ok":
      return self._enter(step, "ok", lambda: None, ())
    signal, seen = self._signals[found[0].name], found[0].found.level
    return self._enter(
      step, level, lambda: signal.onset(seen), self._reasons(found)
    )

  def _reasons(self, found: list[Group]) -> tuple[Reason, ...]:
    reasons = []
    for number, one in enumerate(found):
      if number and one.evidence < _NAMED:
        break
      value, before = self._signals[one.name].shown(one.found.level)
      way = "rose" if one.found.rises else "fell"
      if self._signals[one.name].kind.known:
        way = "size of the difference from the anchor"
      rate = math.exp(min(one.found.evidence, _CERTAIN))
      more = "more than " if one.found.evidence > _CERTAIN else ""
      rule = f"{way}, by chance once in {more}{rate:.2g} rows"
      reasons.append(Reason(one.name, value, before, rule))
    return tuple(reasons)

  def _enter(
    self,
    step: int,
    level: Level,
    began: Callable[[], int | None],
    reasons: tuple[Reason, ...],
  ) -> Decision:
    if level == self._decision.level:
      return self._keep(step)
    self._decision = Decision(step, level, began(), reasons, True)
    return self._decision

  def _keep(self, step: int) -> Decision:
    self._decision = self._decision._replace(step=step, new=False)
    return self._decision

  def _take_broken(self, step: int, reasons: list[Reason]) -> Decision:
    """Returns a request for a rollback, without any other evidence."""
    if self._is_broken:
      return self._keep(step)
    self._is_broken = True
    before = self._decision
    # A discriminator was dead for some rows before it was found dead.
    since = step
    if self._dead:
      per_row = (step - self._first) / max(self._rows - 1, 1)
      since = max(int(step - self._dead * per_row), 0)
    if before.level != "ok" and before.onset is not None:
      since = min(since, before.onset)
    named = {reason.signal for reason in reasons}
    others = (r for r in before.reasons if r.signal not in named)
    self._decision = Decision(
      step, "rollback", since, (*reasons, *others), True
    )
    return self._decision


def _to_json(value: float | None) -> float | str | None:
  """Returns the number, or its name if JSON cannot represent it."""
  return value if value is None or math.isfinite(value) else str(value)
