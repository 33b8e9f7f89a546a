"""Spec of the optimizers and of the moving average."""

import dataclasses

from bigscale.spec.base import Schedule, check_kimg, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimSpec:
  """Adam for both players, and the moving average of G's weights.

  Attributes:
    g_lr: learning rate of G.
    d_lr: learning rate of D.
    beta1: Adam's decay rate of the first moment, in [0, 1).
    beta2: Adam's decay rate of the second moment, in [0, 1).
    epsilon: Adam's epsilon, added to the root of the second moment.
    d_steps: number of D updates per G update.
    microbatches: number of microbatches that each batch is split into. They are
      computed one after the other to save memory (gradient accumulation). The
      gradient is that of the whole batch and is sent between devices once.
    device_batch: largest number of samples that a device computes at once; 0
      sets no limit. Where each device gets more samples, because there are
      fewer devices, more than `microbatches` microbatches are used. The batch
      and, up to rounding, the numbers stay the same.
    fakes_at_once: whether one forward pass of G generates the fakes of all D
      updates of a step. It applies only if G's state does not change between
      these updates. It is faster, but needs the memory of `d_steps` batches in
      that pass. Batch norm always normalizes each batch separately.
    ema_decay: decay of G's moving average per step, in [0, 1) (BigGAN: 0.9999).
    ema_half_life_kimg: half-life of G's moving average in thousand images. If
      set, it replaces `ema_decay`: the decay is 0.5^(batch / half-life)
      (R3GAN). A half-life of 0 disables averaging.
    ema_start_kimg: thousand images at which averaging starts. Before that,
      the average is a copy of G.
  """

  g_lr: Schedule
  d_lr: Schedule
  beta1: float = 0.0
  beta2: Schedule = Schedule(first=0.999, last=0.999)
  epsilon: float = 1e-8
  d_steps: int = 1
  microbatches: int = 1
  device_batch: int = 0
  fakes_at_once: bool = True
  ema_decay: float = 0.9999
  ema_half_life_kimg: Schedule | None = None
  ema_start_kimg: float = 0.0

  def __post_init__(self) -> None:
    require(
      self.d_steps >= 1, f"optim.d_steps={self.d_steps} must be 1 or more"
    )
    require(
      self.microbatches >= 1,
      f"optim.microbatches={self.microbatches} must be 1 or more",
    )
    require(
      self.device_batch >= 0,
      f"optim.device_batch={self.device_batch} must not be negative; 0 sets no "
      "limit",
    )
    for field in ("g_lr", "d_lr"):
      lr = getattr(self, field)
      require(
        lr.first > 0 and lr.last >= 0,
        f"optim.{field} goes from {lr.first} to {lr.last}; it must be positive",
      )
    betas = (self.beta1, self.beta2.first, self.beta2.last, self.ema_decay)
    require(
      all(0 <= beta < 1 for beta in betas),
      "optim.beta1, optim.beta2 and optim.ema_decay must lie in [0, 1); "
      f"got {betas}",
    )
    require(
      self.epsilon > 0,
      f"optim.epsilon={self.epsilon} must be positive; 1e-8 is usual",
    )
    half_life = self.ema_half_life_kimg
    require(
      half_life is None or min(half_life.first, half_life.last) >= 0,
      f"optim.ema_half_life_kimg={half_life} must not be negative; 0 disables "
      "averaging, None uses optim.ema_decay",
    )
    check_kimg("optim.ema_start_kimg", self.ema_start_kimg)
