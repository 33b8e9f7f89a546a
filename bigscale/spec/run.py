"""Specs of scores and checkpoints, and of the whole run."""

import dataclasses
from typing import Literal

from bigscale.spec.base import SpecError, check_kimg, require
from bigscale.spec.count import ImageCount
from bigscale.spec.data import DataSpec
from bigscale.spec.log import LogSpec
from bigscale.spec.mesh import MeshSpec
from bigscale.spec.model import ModelBase
from bigscale.spec.monitor import MonitorSpec
from bigscale.spec.objective import AugmentSpec, LossSpec
from bigscale.spec.operations import OperationsSpec
from bigscale.spec.optim import OptimSpec
from bigscale.spec.sampling import SamplingSpec
from bigscale.spec.scores import directions, first_ranked, rises


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalSpec:
  """Scores computed during training, with G's averaged (EMA) weights.

  Attributes:
    kimg: thousand images between evaluations; 0 evaluates only at the end.
    num_samples: number of images to generate per evaluation, at least 2.
    batch_size: number of images to generate at once.
    scores: names of the scores to compute, such as `fd_classifier` or
      `fid_inception`; see `bigscale.spec.scores`.
    num_reals: number of randomly selected training records to compare with; 0
      uses all.
    classifier_steps: training steps of the classifier whose features are
      compared; None chooses a number by the source.
    labels: labels of generated samples: `reference` samples classes in the
      proportions of the reals they are compared with; `uniform` generates the
      same number of samples of each class.
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
      "evaluate.scores is empty; name at least one score, such as "
      "fd_classifier",
    )
    directions(self.scores)

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of the columns that the scores write."""
    return tuple(directions(self.scores))

  def rises(self, column: str) -> bool:
    """Returns whether higher values of a score column are better.

    Raises:
      SpecError: no score has this column, or the column has no direction.
    """
    return rises(column, self.scores)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSpec:
  """Which checkpoints a run keeps.

  Attributes:
    kimg: thousand images between checkpoints; 0 saves only the last.
    keep: number of newest checkpoints to keep, at least 1.
    keep_best: number of best checkpoints to keep in addition.
    best: score column that ranks the checkpoints; "" uses the first column that
      has a direction.
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
class RunSpec:
  """A complete training run.

  Attributes:
    seed: seed of the weights, the latents and the order of the data, in [0,
      2^31).
    global_batch_size: number of images per D update, summed over all devices.
    total_kimg: length of the run: thousand real images to show to D.
    model: the family of models and its settings.
    data: the data set.
    loss: losses and penalties.
    optim: optimizers and G's moving average.
    augment: augmentation of D's inputs.
    mesh: arrangement of devices.
    evaluate: scores computed during training.
    log: metrics and sample grids.
    checkpoint: checkpoints to keep.
    monitor: collapse monitor.
    operations: handling of machine failures.
    sampling: defaults of the commands that sample.
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
      f"{self.images_per_step} images, but steps are counted up to 2^31; use "
      f"less than {2**31 * self.images_per_step / 1000:g}",
    )
    self._check_profile()
    self._check_together()
    self._check_noise_scale()
    self._check_microbatches()
    require(0 <= self.seed < 2**31, f"seed={self.seed} must lie in [0, 2^31)")

  def _check_profile(self) -> None:
    """Checks that the run has the steps to trace."""
    window = self.log.profiled_steps
    require(
      window is None or window[1] <= self.total_steps,
      f"log.profile={self.log.profile!r} ends after the run's last step, "
      f"{self.total_steps}; name earlier steps, or raise total_kimg",
    )

  def _check_together(self) -> None:
    """Checks rules that involve settings of several groups."""
    require(
      self.augment.target is None or self.augment.pipe != "none",
      f"augment.target={self.augment.target} needs an augmentation; set "
      "augment.pipe to 'ada' or 'diffaugment', or augment.target to None",
    )
    require(
      self.best_score in self.evaluate.columns,
      f"checkpoint.best={self.checkpoint.best!r} must be a column of "
      f"evaluate.scores: {', '.join(self.evaluate.columns)}",
    )
    self.evaluate.rises(self.best_score)  # Raises if it has no direction.
    gammas = (self.loss.r1_gamma, self.loss.r2_gamma)
    require(
      "raise_gamma" not in self.monitor.interventions
      or any(gamma.ever_positive for gamma in gammas),
      "monitor.interventions contains raise_gamma, but loss.r1_gamma and "
      "loss.r2_gamma are 0; remove it, or train with R1 or R2",
    )
    sigma, model = self.loss.g_sigma, self.model
    if not (sigma.clamp or sigma.strength or self.clamps_sigma):
      return
    require(
      not sigma.strength or sigma.goal > 0 or model.num_singular_values >= 2,
      "loss.g_sigma compares sigma0 with sigma1, but "
      f"model.num_singular_values={model.num_singular_values} tracks only "
      "one; set it to 2 or more, or set loss.g_sigma.goal",
    )
    require(
      model.g_spectral or model.spectra_interval == 1,
      "loss.g_sigma and clamp_sigma in monitor.interventions need the singular "
      "values of every step, but G has no spectral norm; change "
      f"model.spectra_interval from {model.spectra_interval} to 1",
    )

  def _check_noise_scale(self) -> None:
    require(
      not (self.log.noise_scale and self.mesh.weights == "fsdp"),
      "log.noise_scale needs the unsharded gradients of microbatches and "
      "devices, which mesh.weights=fsdp does not have; use zero or replicated",
    )

  def _check_microbatches(self) -> None:
    """Checks that a batch splits into equal microbatches of whole groups."""
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
    if self.optim.device_batch:
      self._check_elastic()

  def _check_elastic(self) -> None:
    """Checks that the number of microbatches changes no number."""
    for name in ("spectral_update", "batch_norm_update"):
      require(
        getattr(self.model, name) == "step",
        f"optim.device_batch={self.optim.device_batch} lets the number of "
        f"microbatches depend on the devices, and with model.{name}="
        f"{getattr(self.model, name)!r} so would the numbers; use 'step'",
      )
    group = self.model.batch_norm_group_size
    own = {field.name for field in dataclasses.fields(self.model)}
    require(
      group > 0 or "batch_norm_group_size" not in own,
      f"optim.device_batch={self.optim.device_batch} lets the number of "
      "microbatches depend on the devices, and so would batch norm's "
      "statistics; set model.batch_norm_group_size to a divisor of it",
    )

  def microbatches_on(self, devices: int) -> int:
    """Returns the number of microbatches on a number of devices.

    Raises:
      SpecError: no number keeps to `optim.device_batch`.
    """
    here, limit = self.global_batch_size // devices, self.optim.device_batch
    fewest = self.optim.microbatches
    if not limit or here <= limit * fewest:
      return fewest
    group = max(self.model.batch_norm_group_size, 1)
    for parts in range(fewest, here + 1):
      size = here // parts
      if here % parts == 0 and size <= limit and size % group == 0:
        return parts
    raise SpecError(
      f"optim.device_batch={limit} is too small for the {here} samples on each "
      f"of {devices} devices: no number of equal microbatches of whole batch "
      f"norm groups ({group} samples) fits; use {group} or more"
    )

  @property
  def clamps_sigma(self) -> bool:
    """Whether the step can bound G's singular values; see `MonitorSpec`."""
    return "clamp_sigma" in self.monitor.interventions

  @property
  def images_per_step(self) -> int:
    """Real images that D sees per step."""
    return self.global_batch_size * self.optim.d_steps

  @property
  def batches_per_step(self) -> int:
    """Batches of reals per step, one more for G if the loss is paired."""
    return self.optim.d_steps + self.loss.paired

  @property
  def count(self) -> ImageCount:
    """The image count of a run with this batch size from start to end."""
    return ImageCount(((0, self.images_per_step),))

  @property
  def total_steps(self) -> int:
    """Number of steps of such a run that show at least `total_kimg`."""
    return self.count.step_of(self.total_kimg)

  @property
  def best_score(self) -> str:
    """The score column that ranks the checkpoints."""
    return self.checkpoint.best or first_ranked(self.evaluate.scores)

  @property
  def kinks_kimg(self) -> tuple[float, ...]:
    """Thousand images at which a schedule ends or the moving average starts."""
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
