"""Settings of the collapse monitor."""

import dataclasses
from typing import Literal

from bigscale.spec.anchor import AnchorSpec
from bigscale.spec.base import require
from bigscale.spec.verdict import VerdictSpec

# Changes that a rollback may make; see `MonitorSpec`.
Intervention = Literal[
  "lower_lr", "raise_gamma", "clamp_sigma", "ema_to_g", "older_d"
]
_POLICY: tuple[Intervention, ...] = ("lower_lr",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSpec:
  """Settings of the collapse monitor.

  Attributes:
    action: what an alarm does. `off`: the run checks only that losses are
      finite. `log`: the alarm is written to the events. `checkpoint`: the
      newest healthy state is saved as well, and training continues. `rollback`:
      the run returns to that state, at most `retries` times, and then stops
      with exit code 3.
    interval: number of steps between two probes, and between two readings of
      the singular values. A probe evaluates held-out images and the diversity
      of samples.
    num_samples: number of real images, held-out images and samples in a probe,
      at most `global_batch_size`.
    snapshot_interval: number of steps between two copies of the state in host
      memory.
    snapshots: maximum number of copies. Fewer are kept if the memory is too
      small. Their ages are spaced logarithmically. With 12 copies, a rollback
      returns at most twice as far as necessary.
    max_host_gib: maximum memory of the copies on each host, in GiB; 0 allows
      half of the free memory.
    keep: number of the newest healthy checkpoints to keep on disk.
    retries: maximum number of rollbacks.
    rewind: minimum number of steps between the onset and the state that the
      first rollback returns to. Each further rollback doubles it.
    data: data after a rollback. `skip`: the run continues with new data and
      skips the data that it read after the healthy state (Chowdhery et al.
      2022, sec. 5.1). `replay`: the run reads the same data again.
    interventions: changes made at a rollback, in addition to new noise. The
      default is the one that helped most where the fault persists
      (docs/reference/drills.md); () makes none.
      `lower_lr`: lower learning rates. `raise_gamma`: larger weights of R1 and
      R2. `clamp_sigma`: an upper bound on G's singular values (Brock et al.
      2019, eq. 4). `ema_to_g`: G restarts from its moving average. `older_d`: D
      restarts from the snapshot before the healthy state.
    lr_factor: factor of `lower_lr`, applied at each rollback.
    gamma_factor: factor of `raise_gamma`, applied at each rollback.
    sigma_factor: upper bound of `clamp_sigma`, as a multiple of each layer's
      largest singular value in the healthy state.
    verdict: settings of the verdict, which decides on alarms.
    anchor: settings of the anchor, a fixed set of images that each probe
      compares with.
  """

  action: Literal["off", "log", "checkpoint", "rollback"] = "checkpoint"
  interval: int = 50
  num_samples: int = 256
  snapshot_interval: int = 200
  snapshots: int = 12
  max_host_gib: float = 0.0
  keep: int = 2
  retries: int = 3
  rewind: int = 0
  data: Literal["skip", "replay"] = "skip"
  interventions: tuple[Intervention, ...] = _POLICY
  lr_factor: float = 0.5
  gamma_factor: float = 2.0
  sigma_factor: float = 1.0
  verdict: VerdictSpec = VerdictSpec()
  anchor: AnchorSpec = AnchorSpec()

  def __post_init__(self) -> None:
    for field in (
      "interval",
      "num_samples",
      "snapshot_interval",
      "snapshots",
      "keep",
    ):
      value = getattr(self, field)
      require(value >= 1, f"monitor.{field}={value} must be 1 or more")
    for field in ("max_host_gib", "retries", "rewind"):
      value = getattr(self, field)
      require(value >= 0, f"monitor.{field}={value} must not be negative")
    require(
      self.num_samples >= 2,
      f"monitor.num_samples={self.num_samples} must be 2 or more: one sample "
      "has no diversity",
    )
    require(
      0 < self.lr_factor <= 1,
      f"monitor.lr_factor={self.lr_factor} must lie in (0, 1]",
    )
    for field in ("gamma_factor", "sigma_factor"):
      value = getattr(self, field)
      require(value >= 1, f"monitor.{field}={value} must be 1 or more")
    require(
      self.interventions in ((), _POLICY) or self.action == "rollback",
      f"monitor.interventions={self.interventions} require rollbacks, "
      f"but monitor.action={self.action!r} never rolls back; set "
      "monitor.action to 'rollback'",
    )
    require(
      "older_d" not in self.interventions or self.snapshots >= 2,
      f"monitor.snapshots={self.snapshots} must be 2 or more, because "
      "monitor.interventions contains 'older_d'",
    )
