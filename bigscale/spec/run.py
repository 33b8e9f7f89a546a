"""Specs of everything around the model, and of the run as a whole."""

import dataclasses
import re
from typing import Literal

from bigscale.spec.base import Schedule, check_kimg, require
from bigscale.spec.count import ImageCount
from bigscale.spec.data import DataSpec
from bigscale.spec.mesh import MeshSpec
from bigscale.spec.model import ModelBase
from bigscale.spec.monitor import MonitorSpec
from bigscale.spec.objective import AugmentSpec, LossSpec
from bigscale.spec.sampling import SamplingSpec
from bigscale.spec.scores import directions, first_ranked, rises


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimSpec:
  """Adam for both players, and the moving average of G.

  Attributes:
    g_lr: learning rate of G.
    d_lr: learning rate of D.
    beta1: decay of the first moment.
    beta2: decay of the second moment.
    epsilon: of Adam.
    d_steps: D updates before each G update.
    microbatches: parts that every batch is computed in, one after the other,
      for less memory (gradient accumulation). The gradient is that of the
      whole batch, and crosses devices once.
    fakes_at_once: whether one forward pass of G draws the fakes of all D
      updates of a step, where its weights stand still meanwhile. Faster, and
      takes the memory of `d_steps` batches in that pass. Batch norm treats each
      batch alone either way.
    ema_decay: kept share of G's average at each step (BigGAN: 0.9999).
    ema_half_life_kimg: used in its place where given: the decay is
      0.5^(batch / half-life) (R3GAN).
    ema_start_kimg: before it the average is G itself.
  """

  g_lr: Schedule
  d_lr: Schedule
  beta1: float = 0.0
  beta2: Schedule = Schedule(first=0.999, last=0.999)
  epsilon: float = 1e-8
  d_steps: int = 1
  microbatches: int = 1
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
    for field in ("g_lr", "d_lr"):
      lr = getattr(self, field)
      require(
        lr.first > 0 and lr.last >= 0,
        f"optim.{field} runs from {lr.first} to {lr.last}; it must be positive",
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
      f"optim.ema_half_life_kimg={half_life} must not be negative; 0 has no "
      "average, None takes optim.ema_decay",
    )
    check_kimg("optim.ema_start_kimg", self.ema_start_kimg)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSpec:
  """Measuring during training, on the EMA weights.

  Attributes:
    kimg: thousand images between measurements; 0 measures only at the end.
    num_samples: generated images a measurement.
    batch_size: images generated at a time.
    scores: what is measured, as `fd_classifier` or `fid_inception`; see
      `bigscale.spec.scores`.
    num_reals: train records to compare with, random ones; 0 takes all.
    classifier_steps: of the classifier whose features are compared; None
      takes enough of them for the source.
    labels: of samples: `reference` draws the classes in the proportions of the
      reals that are compared with; `uniform` draws equally many of each class.
  """

  kimg: float = 0.0
  num_samples: int = 5000
  batch_size: int = 250
  scores: tuple[str, ...] = ("fd_classifier",)
  num_reals: int = 0
  classifier_steps: int | None = None
  labels: Literal["reference", "uniform"] = "reference"

  def __post_init__(self) -> None:
    require(
      self.num_samples >= 2 and self.batch_size >= 1,
      f"evaluate.num_samples={self.num_samples} must be 2 or more and "
      f"evaluate.batch_size={self.batch_size} 1 or more",
    )
    check_kimg("evaluate.kimg", self.kimg)
    require(
      self.classifier_steps is None or self.classifier_steps >= 1,
      f"evaluate.classifier_steps={self.classifier_steps} must be 1 or more, "
      "or None",
    )
    require(
      self.num_reals >= 0,
      f"evaluate.num_reals={self.num_reals} must be 1 or more, or 0 for all",
    )
    require(
      len(self.scores) > 0,
      "evaluate.scores is empty; name at least one, as fd_classifier",
    )
    directions(self.scores)

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of the numbers that the scores give."""
    return tuple(directions(self.scores))

  def rises(self, column: str) -> bool:
    """Returns whether more of a column of the scores is better.

    Raises:
      SpecError: neither more nor less of it is, or no score gives it.
    """
    return rises(column, self.scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSpec:
  """What a run writes down, and how often.

  Attributes:
    steps: steps between rows of metrics.jsonl.
    samples_kimg: thousand images between sample grids; 0 draws only the last.
    num_samples: images in a grid.
    tensorboard: also write TensorBoard events.
    noise_scale: also write what the gradient noise scale is made of
      (`bigscale.scaling.noise_scale`), from the gradients of all devices and
      microbatches.
  """

  steps: int = 10
  samples_kimg: float = 0.0
  num_samples: int = 100
  tensorboard: bool = True
  noise_scale: bool = False

  def __post_init__(self) -> None:
    require(
      self.steps >= 1 and self.num_samples >= 1,
      f"log.steps={self.steps} and log.num_samples={self.num_samples} must "
      "be 1 or more",
    )
    check_kimg("log.samples_kimg", self.samples_kimg)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
  """What is kept of a run.

  Attributes:
    kimg: thousand images between checkpoints; 0 saves only the last.
    keep: newest checkpoints kept.
    keep_best: best ones kept besides.
    best: by this column of the run's scores; "" takes the first one with a
      direction.
  """

  kimg: float = 0.0
  keep: int = 2
  keep_best: int = 1
  best: str = ""

  def __post_init__(self) -> None:
    require(
      self.keep >= 1 and self.keep_best >= 0,
      f"checkpoint.keep={self.keep} must be 1 or more and "
      f"checkpoint.keep_best={self.keep_best} 0 or more",
    )
    check_kimg("checkpoint.kimg", self.kimg)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperationsSpec:
  """How a run deals with machines that fail.

  Attributes:
    hang_seconds: that a process may wait for data or for a step; then all end
      with exit code 76, and say who waited for what. 0 waits for ever.
    pause_factor: so many times longer may compiling, scoring and saving take.
    compiler_options: NAME=VALUE of XLA's compiler, for the run's programs; they
      come before the project's own (`parallel/compiler`). NAME= leaves that
      option as XLA has it.
  """

  hang_seconds: float = 1800.0
  pause_factor: float = 8.0
  compiler_options: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    for option in self.compiler_options:
      require(
        re.fullmatch(r"xla_\w+=.*", option) is not None,
        f"operations.compiler_options has {option!r}; write "
        "xla_NAME=VALUE, without dashes",
      )
    require(
      self.hang_seconds >= 0 and self.pause_factor >= 1,
      f"operations.hang_seconds={self.hang_seconds} must be 0 or more, and "
      f"operations.pause_factor={self.pause_factor} 1 or more",
    )

  @property
  def limits(self) -> dict[str, float]:
    """Seconds that each phase of the training loop may take."""
    if not self.hang_seconds:
      return {}
    pauses = ("compile", "samples", "evaluate", "checkpoint", "rollback")
    return dict.fromkeys(("data", "step"), self.hang_seconds) | dict.fromkeys(
      pauses, self.hang_seconds * self.pause_factor
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSpec:
  """One training, whole.

  Attributes:
    seed: of weights, latents and data order.
    global_batch_size: images of one D update over all devices.
    total_kimg: thousand real images to show to D.
  """

  seed: int = 0
  global_batch_size: int
  total_kimg: float
  model: ModelBase
  data: DataSpec
  loss: LossSpec
  optim: OptimSpec
  augment: AugmentSpec = AugmentSpec()
  mesh: MeshSpec = MeshSpec()
  evaluate: EvalSpec = dataclasses.field(default_factory=EvalSpec)
  log: LogSpec = LogSpec()
  checkpoint: CheckpointSpec = CheckpointSpec()
  monitor: MonitorSpec = MonitorSpec()
  operations: OperationsSpec = OperationsSpec()
  sampling: SamplingSpec = SamplingSpec()

  def __post_init__(self) -> None:
    require(
      self.global_batch_size >= 1,
      f"global_batch_size={self.global_batch_size} must be 1 or more",
    )
    require(
      self.total_kimg > 0, f"total_kimg={self.total_kimg} must be positive"
    )
    check_kimg("total_kimg", self.total_kimg)
    require(
      self.total_steps < 2**31,
      f"total_kimg={self.total_kimg} is {self.total_steps} steps of "
      f"{self.images_per_step} images, and steps are counted up to 2^31; use "
      f"less than {2**31 * self.images_per_step / 1000:g}",
    )
    self._check_together()
    self._check_noise_scale()
    self._check_microbatches()
    require(0 <= self.seed < 2**31, f"seed={self.seed} must lie in [0, 2^31)")

  def _check_together(self) -> None:
    """Rules between one group of settings and another."""
    require(
      self.augment.target is None or self.augment.pipe != "none",
      f"augment.target={self.augment.target} drives no augmentation; set "
      "augment.pipe to 'ada' or 'diffaugment', or augment.target to None",
    )
    require(
      self.best_score in self.evaluate.columns,
      f"checkpoint.best={self.checkpoint.best!r} is none of the columns of "
      f"evaluate.scores: {', '.join(self.evaluate.columns)}",
    )
    self.evaluate.rises(self.best_score)  # Refuses one without a direction.
    gammas = (self.loss.r1_gamma, self.loss.r2_gamma)
    require(
      "raise_gamma" not in self.monitor.interventions
      or any(gamma.ever_positive for gamma in gammas),
      "monitor.interventions names raise_gamma, and loss.r1_gamma and "
      "loss.r2_gamma are 0; leave it out, or train with R1 or R2",
    )
    sigma, model = self.loss.g_sigma, self.model
    if not (sigma.clamp or sigma.strength or self.clamps_sigma):
      return
    require(
      not sigma.strength or sigma.goal > 0 or model.num_singular_values >= 2,
      "loss.g_sigma compares sigma0 with sigma1, and "
      f"model.num_singular_values={model.num_singular_values} tracks one; "
      "set it to 2 or more, or set loss.g_sigma.goal",
    )
    require(
      model.g_spectral or model.spectra_interval == 1,
      "loss.g_sigma and clamp_sigma of monitor.interventions need the singular "
      "values of every step, and G has no spectral norm; set "
      "model.spectra_interval from "
      f"{model.spectra_interval} to 1",
    )

  def _check_noise_scale(self) -> None:
    require(
      not (self.log.noise_scale and self.mesh.weights == "fsdp"),
      "log.noise_scale needs whole gradients of parts of a batch, which "
      "mesh.weights=fsdp never has; use zero or replicated",
    )

  def _check_microbatches(self) -> None:
    """A batch is made of whole microbatches, and they of whole groups."""
    parts, size = self.optim.microbatches, self.global_batch_size
    group = self.model.batch_norm_group_size
    unit = parts * max(group, 1)
    nearest = max(unit, round(size / unit) * unit)
    require(
      size % unit == 0,
      f"global_batch_size={size} is not divisible by optim.microbatches="
      f"{parts}"
      + (f" x model.batch_norm_group_size={group}" if group else "")
      + f"; use global_batch_size={nearest}",
    )

  @property
  def clamps_sigma(self) -> bool:
    """Whether the step can bound G's spectra; see `MonitorSpec`."""
    return "clamp_sigma" in self.monitor.interventions

  @property
  def images_per_step(self) -> int:
    """Real images that D sees in one step."""
    return self.global_batch_size * self.optim.d_steps

  @property
  def batches_per_step(self) -> int:
    """Batches of reals a step reads: a paired loss' G step needs its own."""
    return self.optim.d_steps + self.loss.paired

  @property
  def count(self) -> ImageCount:
    """The image count of a run that has this batch size throughout."""
    return ImageCount(((0, self.images_per_step),))

  @property
  def total_steps(self) -> int:
    """Steps of such a run that show at least `total_kimg`."""
    return self.count.step_of(self.total_kimg)

  @property
  def best_score(self) -> str:
    """Column of the scores by which the best checkpoint is chosen."""
    return self.checkpoint.best or first_ranked(self.evaluate.scores)

  @property
  def kinks_kimg(self) -> tuple[float, ...]:
    """Thousand images at which something scheduled begins or ends."""
    schedules = (
      self.optim.g_lr,
      self.optim.d_lr,
      self.optim.beta2,
      self.optim.ema_half_life_kimg,
      self.loss.r1_gamma,
      self.loss.r2_gamma,
      self.augment.probability,
      *(term.weight for term in self.loss.terms),
    )
    ends = {self.optim.ema_start_kimg} | {
      schedule.kimg
      for schedule in schedules
      if schedule is not None and schedule.first != schedule.last
    }
    return tuple(sorted(filter(None, ends)))
