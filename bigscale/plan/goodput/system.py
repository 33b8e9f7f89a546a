"""Defines a machine, its faults and its checkpoints, for `simulate`.

All times are in seconds. Work is measured in seconds of training steps at full
speed.
"""

import dataclasses
import math

from bigscale.spec import require


def _check(of: object, *names: str) -> None:
  """Raises `SpecError` unless the fields are finite and not negative."""
  for name in names:
    value = getattr(of, name)
    require(
      0 <= value < math.inf,
      f"{name}={value} of a {type(of).__name__} must be finite and not "
      "negative",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
  """A kind of fault. Its faults arrive independently, at a constant rate.

  Attributes:
    name: name of the kind.
    rate: faults per second of the whole machine.
    detect: seconds until all processes have ended.
    replace: seconds until the processes start again.
    warned: whether the run can save its state before it ends, as after SIGTERM.
  """

  name: str
  rate: float
  detect: float = 0.0
  replace: float = 0.0
  warned: bool = False

  def __post_init__(self) -> None:
    _check(self, "rate", "detect", "replace")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tier:
  """A place for checkpoints.

  Attributes:
    name: name of the tier.
    interval: work between two saves; infinity never saves.
    blocking: seconds for which a save stops the training.
    write: seconds after that until the checkpoint is complete. A save waits for
      the one before it.
    restore: seconds to restore a checkpoint.
    lost_by: names of the faults that destroy its checkpoints.
  """

  name: str
  interval: float
  blocking: float = 0.0
  write: float = 0.0
  restore: float = 0.0
  lost_by: frozenset[str] = frozenset()

  def __post_init__(self) -> None:
    _check(self, "blocking", "write", "restore")
    require(
      self.interval > 0,
      f"interval={self.interval} of {self.name} must be more than 0 seconds",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stragglers:
  """Slow hosts. All others wait for a slow host in every step.

  Attributes:
    rate: slow hosts per second of the whole machine.
    slowdown: factor by which a step takes longer.
    duration: seconds for which a host stays slow.
  """

  rate: float = 0.0
  slowdown: float = 1.0
  duration: float = 0.0

  def __post_init__(self) -> None:
    _check(self, "rate", "duration")
    require(
      self.slowdown >= 1,
      f"slowdown={self.slowdown} of stragglers must be 1 or more",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """A run on a machine.

  Attributes:
    faults: kinds of faults.
    tiers: places of the checkpoints; the first of equally new ones is restored.
    start: seconds from the start of the processes to the restore.
    compile: seconds from the restore to the first step.
    evaluation_interval: work between two evaluations.
    evaluation: seconds of an evaluation.
    stragglers: slow hosts.
  """

  faults: tuple[Fault, ...] = ()
  tiers: tuple[Tier, ...] = ()
  start: float = 0.0
  compile: float = 0.0
  evaluation_interval: float = math.inf
  evaluation: float = 0.0
  stragglers: Stragglers = Stragglers()

  def __post_init__(self) -> None:
    _check(self, "start", "compile", "evaluation")
    require(
      self.evaluation_interval > 0,
      f"evaluation_interval={self.evaluation_interval} must be more than 0",
    )

  @property
  def fault_rate(self) -> float:
    """Faults of all kinds per second."""
    return sum(fault.rate for fault in self.faults)

  def with_intervals(self, *intervals: float) -> "System":
    """Returns the system with other intervals of its tiers, in order."""
    pairs = zip(self.tiers, intervals, strict=True)
    tiers = (
      dataclasses.replace(tier, interval=interval) for tier, interval in pairs
    )
    return dataclasses.replace(self, tiers=tuple(tiers))
