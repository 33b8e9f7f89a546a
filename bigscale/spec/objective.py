"""Specs of the losses, their penalties and augmentation."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, Literal

from bigscale.spec.base import Schedule, check_kimg, require

OFF = Schedule(first=0.0, last=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaSpec:
  """Interventions on the largest singular values of G's weights.

  These interventions keep spectra from exploding, but do not prevent collapse
  by themselves (Brock et al. 2019, sec. 4.1).

  Attributes:
    clamp: upper bound of the largest singular value sigma0. After each update,
      W <- W - max(0, sigma0 - clamp) u0 v0^T. 0 is off.
    strength: weight of a penalty, the sum over layers of (sigma0 - goal)^2; 0
      is off.
    goal: target of the penalty; 0 uses `ratio` times sigma1, the second largest
      singular value, without a gradient.
    ratio: multiple of sigma1 that replaces `goal` if `goal` is 0.
  """

  clamp: float = 0.0
  strength: float = 0.0
  goal: float = 0.0
  ratio: float = 1.0

  def __post_init__(self) -> None:
    for field in ("clamp", "strength", "goal", "ratio"):
      require(
        getattr(self, field) >= 0,
        f"loss.g_sigma.{field}={getattr(self, field)} must not be negative",
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TermSpec:
  """A user-defined penalty on D.

  Attributes:
    name: `package.module:Name` of a `DTerm` (`bigscale.losses.terms`).
    weight: weight of the penalty's mean over samples, at least 0.
    interval: steps between evaluations of the penalty. Its weight is multiplied
      by the interval. Its scalar is logged as 0 for steps in between.
  """

  name: str
  weight: Schedule
  interval: int = 1

  def __post_init__(self) -> None:
    require(
      self.weight.first >= 0 and self.weight.last >= 0,
      f"the weight of loss.terms {self.name!r} must not be negative; it goes "
      f"from {self.weight.first} to {self.weight.last}",
    )
    require(
      self.interval >= 1,
      f"the interval of loss.terms {self.name!r} is {self.interval}; it must "
      "be 1 (every step) or more",
    )
    _losses("terms").find(self.name)

  @property
  def row(self) -> Any:
    """The `DTerm` that `name` names."""
    return _losses("terms").find(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpec:
  """The losses of both players.

  Attributes:
    adversarial: name of a built-in loss (`OURS` in
      `bigscale.losses.adversarial`), or `package.module:Name` of a user's own.
    label_smoothing: amount subtracted from D's target for reals, in [0, 0.5).
      Only for losses that have targets.
    r1_gamma: gamma of R1, whose penalty on reals has the weight gamma / 2; 0 is
      off.
    r2_gamma: gamma of R2, whose penalty on fakes has the weight gamma / 2; 0 is
      off.
    penalty_interval: steps between evaluations of R1 and R2. Their weights are
      multiplied by the interval (Karras et al. 2020, sec. 3.1). `d/r1` and
      `d/r2` are logged as 0 for steps in between.
    gradient_penalty: weight of the WGAN-GP penalty (|grad D| - 1)^2 between
      reals and fakes (Gulrajani et al. 2017 use 10); 0 is off.
    weight_clip: bound of the absolute values of D's weights after each update
      (Arjovsky et al. 2017 use 0.01); 0 is off.
    terms: additional, user-defined penalties on D.
    orthogonal: strength beta of orthogonal regularization of G, beta * ||W^T W
      o (1 - I)||^2 (Brock et al. 2019, eq. 3); 0 is off.
    orthogonal_form: form of orthogonal regularization: `off_diagonal` (eq. 3),
      or `full`, ||W^T W - I||^2 (eq. 2).
    g_sigma: interventions on the singular values of G's weights.
  """

  adversarial: str
  label_smoothing: float = 0.0
  r1_gamma: Schedule = OFF
  r2_gamma: Schedule = OFF
  penalty_interval: int = 1
  gradient_penalty: float = 0.0
  weight_clip: float = 0.0
  terms: tuple[TermSpec, ...] = ()
  orthogonal: float = 0.0
  orthogonal_form: Literal["off_diagonal", "full"] = "off_diagonal"
  g_sigma: SigmaSpec = SigmaSpec()

  def __post_init__(self) -> None:
    for field in ("r1_gamma", "r2_gamma"):
      gamma = getattr(self, field)
      require(
        gamma.first >= 0 and gamma.last >= 0,
        f"loss.{field} must not be negative; it goes from {gamma.first} to "
        f"{gamma.last}",
      )
    for field in ("orthogonal", "gradient_penalty", "weight_clip"):
      require(
        getattr(self, field) >= 0,
        f"loss.{field}={getattr(self, field)} must not be negative",
      )
    require(
      self.penalty_interval >= 1,
      f"loss.penalty_interval={self.penalty_interval} must be 1 (every step) "
      "or more",
    )
    require(
      0 <= self.label_smoothing < 0.5,
      f"loss.label_smoothing={self.label_smoothing} must lie in [0, 0.5)",
    )
    losses = _losses("adversarial")
    losses.find(self.adversarial)
    losses.check_smoothing(self.adversarial, self.label_smoothing)
    require(
      not (self.weight_clip and self.gradient_penalty),
      f"loss.weight_clip={self.weight_clip} and loss.gradient_penalty="
      f"{self.gradient_penalty} both limit D's slope; set one of them to 0",
    )

    scalars = ["d/gradient_penalty", *(term.row.scalar for term in self.terms)]
    require(
      len(set(scalars)) == len(scalars),
      f"loss.terms log the scalars {', '.join(scalars[1:])}; give each a "
      "unique name other than d/gradient_penalty",
    )

  @property
  def paired(self) -> bool:
    """Whether the loss compares each fake with a real image."""
    return _losses("adversarial").find(self.adversarial).paired

  @property
  def threshold(self) -> float | None:
    """The logit above which D classifies an image as real, if there is one."""
    return _losses("adversarial").find(self.adversarial).threshold

  @property
  def d_terms(self) -> Sequence[TermSpec]:
    """All penalties on D that need a pass of their own, WGAN-GP first."""
    weight = self.gradient_penalty
    if not weight:
      return self.terms
    ours = TermSpec(
      name="bigscale.losses.wgan_gp:TERM",
      weight=Schedule(first=weight, last=weight),
    )
    return (ours, *self.terms)


def _losses(module: str) -> Any:
  """Imports a module of `bigscale.losses`, which itself imports the spec."""
  return importlib.import_module(f"bigscale.losses.{module}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSpec:
  """Differentiable augmentation of D's inputs, both reals and fakes.

  Attributes:
    pipe: augmentation pipeline: `none`; `diffaugment` (Zhao et al. 2020);
      `ada`, the pipeline of StyleGAN2-ADA with R3GAN's strengths (Karras et al.
      2020b).
    transforms: transforms to apply. `diffaugment` has color, translation and
      cutout; `ada` has blit, geometric, color and cutout. () applies all of
      them.
    probability: probability of each transform, in [0, 1]. With `target`, only
      the schedule's first value is used.
    target: target of adaptive augmentation, in (0, 1); ADA uses 0.6. The
      probability is adjusted until the mean sign over the reals equals the
      target. The sign is that of D(x) minus the loss's threshold, or of D(x) -
      D(G(z)) if the loss has no threshold. None uses `probability`.
    target_interval: steps between adjustments of the probability.
    target_kimg: thousand images in which the probability can increase from 0 to
      1.
  """

  pipe: Literal["none", "diffaugment", "ada"] = "none"
  transforms: tuple[str, ...] = ()
  probability: Schedule = Schedule(first=1.0, last=1.0)
  target: float | None = None
  target_interval: int = 4
  target_kimg: float = 500.0

  def __post_init__(self) -> None:
    known = TRANSFORMS[self.pipe]
    for name in self.transforms:
      require(
        name in known,
        f"augment.transforms contains {name!r}, which the pipe {self.pipe!r} "
        f"does not have; it has {', '.join(known) or 'none'}",
      )
    for value in (self.probability.first, self.probability.last):
      require(
        0 <= value <= 1,
        f"augment.probability={value} must lie in [0, 1]",
      )
    require(
      self.target is None or 0 < self.target < 1,
      f"augment.target={self.target} must lie in (0, 1); ADA uses 0.6",
    )
    require(
      self.target_interval >= 1 and self.target_kimg > 0,
      f"augment.target_interval={self.target_interval} must be 1 or more and "
      f"augment.target_kimg={self.target_kimg} positive",
    )
    check_kimg("augment.target_kimg", self.target_kimg)

  @property
  def chosen(self) -> tuple[str, ...]:
    """The selected transforms, in the pipeline's order."""
    known = TRANSFORMS[self.pipe]
    return tuple(name for name in known if name in (self.transforms or known))


TRANSFORMS = {
  "none": (),
  "diffaugment": ("color", "translation", "cutout"),
  "ada": ("blit", "geometric", "color", "cutout"),
}
