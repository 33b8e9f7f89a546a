"""Settings of the verdict: false-alarm rates and minimum changes."""

import dataclasses

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerdictSpec:
  """Settings of the verdict; `bigscale.monitor.verdict` describes its method.

  The verdict compares a run with its own past, so it has no thresholds for
  particular models, scales or signals. The false-alarm rates decide how much
  evidence it needs.

  Attributes:
    rollback_rows: mean number of rows between two false requests for a rollback
      (the average run length in control). A row is a step of a live run.
    warn_rows: mean number of rows between two false warnings.
    smallest_rise: smallest relative rise of weights, singular values or the
      moving average's distance that counts as evidence.
    smallest_shift: smallest material difference from the anchor. A smaller one
      causes a warning but no rollback. For columns of images it is in standard
      deviations of single images; for labels, repeated images and tensors it is
      a share.
    warmup: number of steps at the start of a run in which only values that are
      not finite, a dead discriminator and differences from the anchor cause an
      alarm. The verdict learns from these steps.
    quiet: number of steps after a declared change, such as the end of a
      schedule, a rollback or a changed setting, that are neither judged nor
      learned from.
  """

  rollback_rows: float = 100_000
  warn_rows: float = 10_000
  smallest_rise: float = 0.1
  smallest_shift: float = 0.1
  warmup: int = 200
  quiet: int = 100

  def __post_init__(self) -> None:
    require(
      self.warn_rows >= 100,
      f"monitor.verdict.warn_rows={self.warn_rows} must be at least 100: with "
      "fewer, most warnings are false alarms",
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
    require(
      0 <= self.smallest_shift <= 1,
      f"monitor.verdict.smallest_shift={self.smallest_shift} must lie in "
      "[0, 1]; 0.1 is a tenth of a standard deviation",
    )
    for field in ("warmup", "quiet"):
      value = getattr(self, field)
      require(
        value >= 0,
        f"monitor.verdict.{field}={value} must not be negative",
      )
