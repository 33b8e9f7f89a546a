"""Specs of the collapse monitor: what is watched, kept and done."""

import dataclasses
from typing import Literal

from bigscale.spec.base import require
from bigscale.spec.verdict import VerdictSpec

# What a rollback may change besides the data that follow; see `MonitorSpec`.
Intervention = Literal[
  "lower_lr", "raise_gamma", "clamp_sigma", "ema_to_g", "older_d"
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MonitorSpec:
  """What watches a training for collapse.

  Attributes:
    action: at an alarm: `off` watches nothing but numbers that are not finite;
      `log` writes it down; `checkpoint` saves the newest healthy state and
      goes on; `rollback` saves it and goes back to it, and after `retries`
      times stops (exit code 3).
    interval: steps between probes that cost a pass of their own (held-out
      images, diversity) and between looks at the singular values.
    num_samples: reals, held-out reals and fakes of a probe, at most
      `global_batch_size`.
    snapshot_interval: steps between copies of the state in host memory.
    snapshots: of them that are kept, the newest.
    max_host_gib: of host memory that snapshots may take; 0 is half of what is
      free.
    keep: healthy checkpoints kept on disk, the newest.
    retries: rollbacks before the run stops.
    rewind: steps before the onset that a first rollback goes back at least;
      doubles with every retry.
    data: after a rollback: `skip` reads new data (Chowdhery et al. 2022, sec.
      5.1), `replay` the same again.
    interventions: at a rollback, beside new noise: `lower_lr`, `raise_gamma`
      (R1 and R2), `clamp_sigma` (G's spectra, Brock et al. 2019, eq. 4),
      `ema_to_g` (G restarts from its average), `older_d` (D from the snapshot
      before).
    lr_factor: of `lower_lr`, at every rollback anew.
    gamma_factor: of `raise_gamma`, the same.
    sigma_factor: `clamp_sigma` bounds every sigma0 of G by this times what it
      was in the healthy state.
    verdict: how numbers become an alarm.
  """

  action: Literal["off", "log", "checkpoint", "rollback"] = "checkpoint"
  interval: int = 50
  num_samples: int = 256
  snapshot_interval: int = 200
  snapshots: int = 4
  max_host_gib: float = 0.0
  keep: int = 2
  retries: int = 3
  rewind: int = 0
  data: Literal["skip", "replay"] = "skip"
  interventions: tuple[Intervention, ...] = ()
  lr_factor: float = 0.5
  gamma_factor: float = 2.0
  sigma_factor: float = 1.0
  verdict: VerdictSpec = VerdictSpec()

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
      not self.interventions or self.action == "rollback",
      f"monitor.interventions={self.interventions} are made at a rollback, "
      f"and monitor.action={self.action!r} makes none; set it to 'rollback'",
    )
    require(
      "older_d" not in self.interventions or self.snapshots >= 2,
      "monitor.interventions names older_d, which needs "
      f"monitor.snapshots of 2 or more; it is {self.snapshots}",
    )
