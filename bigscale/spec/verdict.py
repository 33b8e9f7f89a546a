"""Spec of the verdict: how a run's numbers become an alarm."""

import dataclasses

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictSpec:
  """When numbers mean a collapse; `bigscale.monitor.verdict` has the method.

  A value is what a signal shows in a block of steps. Windows are counted in
  values and patience also in parts of the run, so that the defaults hold for a
  thousand steps and for 150 thousand, of BigGAN and of R3GAN.

  Attributes:
    warmup: steps in which nothing but numbers that are not finite counts.
    block: steps summed up by their median, at least; see `block_fraction`.
    block_fraction: of the steps done that a block has where that is more: the
      longer a run, the slower it changes.
    window: values that a signal's reference is made of.
    span: part of the run so far that the window reaches back at least: values
      between are left out, so that what goes wrong slowly is seen too.
    min_values: of them that are there before a signal is judged.
    tolerance: multiplies the smallest deviations that count, of all signals;
      above 1 is more patient, below 1 more nervous.
    allowance: deviations from the reference that are harmless: a steady trend
      stands at 1.35 against the median of its own past.
    clip: deviations that one value counts for at most.
    limit: accumulated deviations beyond the allowance that are one unit of
      evidence.
    warn: units of evidence, of all groups of signals together, that warn.
    rollback: units that ask for a rollback; no group alone has as many, unless
      it is far away for long.
    leave: part of `warn` or `rollback` below which that level is left.
    patience: values that a signal must be far away for to be believed alone;
      twice as many of a signal known to spike.
    recovery: part of the run so far for which the signals known to spike and
      to recover, those of the game and of D, must be far away besides.
    quiet: steps after a kink, of a schedule or another, that are not judged.
    stop_after: steps at the level of rollback after which to stop.
    stop_after_nonfinite: the same while numbers are not finite, or D is
      dead.
  """

  warmup: int = 200
  block: int = 10
  block_fraction: float = 0.0005
  window: int = 32
  span: float = 0.1
  min_values: int = 10
  tolerance: float = 1.0
  allowance: float = 2.0
  clip: float = 8.0
  limit: float = 16.0
  warn: float = 1.0
  rollback: float = 1.9
  leave: float = 0.5
  patience: int = 4
  recovery: float = 0.02
  quiet: int = 100
  stop_after: int = 2000
  stop_after_nonfinite: int = 100

  def __post_init__(self) -> None:
    for field in ("block", "patience", "stop_after", "stop_after_nonfinite"):
      value = getattr(self, field)
      require(value >= 1, f"monitor.verdict.{field}={value} must be 1 or more")
    for field in ("warmup", "quiet", "allowance"):
      value = getattr(self, field)
      require(
        value >= 0, f"monitor.verdict.{field}={value} must not be negative"
      )
    for field in ("tolerance", "limit", "warn"):
      value = getattr(self, field)
      require(value > 0, f"monitor.verdict.{field}={value} must be positive")
    for field in ("block_fraction", "span", "recovery"):
      value = getattr(self, field)
      require(
        0 <= value < 1,
        f"monitor.verdict.{field}={value} must lie in [0, 1): it is a part "
        "of the steps done",
      )
    require(
      4 <= self.min_values <= self.window,
      f"monitor.verdict.min_values={self.min_values} must lie between 4, "
      "below which there is no deviation to speak of, and "
      f"monitor.verdict.window={self.window}",
    )
    require(
      self.clip > self.allowance,
      f"monitor.verdict.clip={self.clip} must exceed "
      f"monitor.verdict.allowance={self.allowance}, else nothing counts",
    )
    require(
      self.rollback >= self.warn,
      f"monitor.verdict.rollback={self.rollback} must be at least "
      f"monitor.verdict.warn={self.warn}",
    )
    require(
      0 < self.leave <= 1,
      f"monitor.verdict.leave={self.leave} must lie in (0, 1]: it is a part "
      "of the evidence that a level needs",
    )
