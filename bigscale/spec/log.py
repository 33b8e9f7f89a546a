"""Spec of what a run logs."""

import dataclasses
import re

from bigscale.spec.base import check_kimg, require

# A trace of many steps takes gigabytes.
MAX_PROFILED_STEPS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSpec:
  """What a run logs, and how often.

  Attributes:
    steps: steps between rows of metrics.jsonl.
    samples_kimg: thousand images between sample grids; 0 writes only the last
      grid.
    num_samples: number of images in a grid.
    tensorboard: whether to write TensorBoard events as well.
    trackers: further writers of scalars and images: "wandb" (Weights & Biases),
      "csv", "parquet", or `package.module:Name`, which is called with the run's
      folder and its spec as JSON values and returns a
      `train.trackers.tracker.Tracker`.
    profile: steps to trace for XProf, as FIRST:LAST, such as "100:104"; ""
      traces only after `bigscale profile`.
    noise_scale: whether to log the terms of the gradient noise scale
      (`bigscale.scaling.noise_scale`), estimated from the gradients of all
      devices and microbatches.
  """

  steps: int = 10
  samples_kimg: float = 0.0
  num_samples: int = 100
  tensorboard: bool = True
  trackers: tuple[str, ...] = ()
  profile: str = ""
  noise_scale: bool = False

  def __post_init__(self) -> None:
    require(
      self.steps >= 1 and self.num_samples >= 1,
      f"log.steps={self.steps} and log.num_samples={self.num_samples} must "
      "be 1 or more",
    )
    check_kimg("log.samples_kimg", self.samples_kimg)
    require(
      not self.profile or self.profiled_steps is not None,
      f"log.profile={self.profile!r} must be FIRST:LAST with steps from 1 on, "
      f"at most {MAX_PROFILED_STEPS} of them, such as '100:104'",
    )

  @property
  def profiled_steps(self) -> tuple[int, int] | None:
    """First and last step to trace, or None."""
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", self.profile)
    if found is None:
      return None
    first, last = int(found[1]), int(found[2])
    good = 1 <= first <= last < first + MAX_PROFILED_STEPS
    return (first, last) if good else None
