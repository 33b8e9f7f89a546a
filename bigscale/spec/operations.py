"""Spec of how a run handles machine failures."""

import dataclasses
import re

from bigscale.spec.base import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperationsSpec:
  """How a run handles machine failures.

  Attributes:
    hang_seconds: maximum seconds that a process may wait for data or a step.
      After that, all processes exit with code 76 and report which process
      waited for what. 0 waits forever.
    pause_factor: multiple of `hang_seconds` that compiling, sampling,
      evaluating, saving a checkpoint and rolling back may take, at least 1.
    lease_seconds: time after which a process that has stopped renewing its
      claim of a run folder on a bucket is lost, at least 1. Another process may
      then take over the folder.
    unsaved_seconds: maximum seconds for which saves on a bucket may fail while
      training goes on. Each failure is a warning and a `save_failed` event. If
      a save fails after this time, the run ends with exit code 1.
    compiler_options: options of the XLA compiler for the run's programs, as
      NAME=VALUE. They take precedence over the project's own options
      (`parallel/compiler`). NAME= without a value leaves the option at XLA's
      default.
    keep_programs: whether to keep compiled programs in the run's folder, so
      that a restart loads them. If JAX already has a compilation cache
      ($JAX_COMPILATION_CACHE_DIR), that one is used.
  """

  hang_seconds: float = 1800.0
  pause_factor: float = 8.0
  lease_seconds: float = 120.0
  unsaved_seconds: float = 7200.0
  compiler_options: tuple[str, ...] = ()
  keep_programs: bool = True

  def __post_init__(self) -> None:
    for option in self.compiler_options:
      require(
        re.fullmatch(r"xla_\w+=.*", option) is not None,
        f"operations.compiler_options contains {option!r}; write "
        "xla_NAME=VALUE, without dashes",
      )
    require(
      self.lease_seconds >= 1 and self.unsaved_seconds >= 0,
      f"operations.lease_seconds={self.lease_seconds} must be 1 or more, and "
      f"operations.unsaved_seconds={self.unsaved_seconds} 0 or more",
    )
    require(
      self.hang_seconds >= 0 and self.pause_factor >= 1,
      f"operations.hang_seconds={self.hang_seconds} must be 0 or more, and "
      f"operations.pause_factor={self.pause_factor} 1 or more",
    )

  @property
  def limits(self) -> dict[str, float]:
    """Maximum seconds of each phase of the training loop; {} if unlimited."""
    if not self.hang_seconds:
      return {}
    pauses = (
      "anchor",
      "compile",
      "profile",
      "samples",
      "evaluate",
      "checkpoint",
      "rollback",
    )
    return dict.fromkeys(("data", "step"), self.hang_seconds) | dict.fromkeys(
      pauses, self.hang_seconds * self.pause_factor
    )
