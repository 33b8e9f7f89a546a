"""Settings of the verdict: false-alarm rates and the smallest change."""

import dataclasses

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictSpec:
  """Settings of the verdict; `bigscale.monitor.verdict` describes the method.

  The verdict compares a run with its own past, so no threshold depends on the
  model, the scale or the signal. The false-alarm rates determine how much
  evidence an alarm needs.

  Attributes:
    rollback_rows: mean number of rows between two false requests for a rollback
      (the average run length in control). A row is a step of a live run.
    warn_rows: mean number of rows between two false warnings.
    smallest_rise: smallest relative rise of weights, singular values or the
      moving average's distance that counts as evidence.
    warmup: number of steps at the start of a run in which only values that are
      not finite and a dead discriminator raise an alarm. The verdict learns
      from these steps.
    quiet: number of steps after a declared change, such as the end of a
      schedule, a rollback or a changed setting, that are neither judged nor
      learned from.
  """

  rollback_rows: float = 100_000
  warn_rows: float = 10_000
  smallest_rise: float = 0.1
  warmup: int = 200
  quiet: int = 100

  def __post_init__(self) -> None:
    require(
      self.warn_rows >= 100,
      f"monitor.verdict.warn_rows={self.warn_rows} must be at least 100: below "
      "that a verdict is mostly false alarms",
    )
    require(
      self.warn_rows <= self.rollback_rows <= 1e100,
      f"monitor.verdict.rollback_rows={self.rollback_rows} must lie between "
      f"monitor.verdict.warn_rows={self.warn_rows} and 1e100; 100000 is the "
      "default",
    )
    require(
      0 < self.smallest_rise <= 10,
      f"monitor.verdict.smallest_rise={self.smallest_rise} must lie in "
      "(0, 10]; 0.1 is a rise by 10%",
    )
    for field in ("warmup", "quiet"):
      value = getattr(self, field)
      require(
        value >= 0,
        f"monitor.verdict.{field}={value} must not be negative",
      )
