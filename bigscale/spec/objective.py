"""Specs of what the players minimize and of what they are shown."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any, Literal

from bigscale.spec.base import Schedule, check_kimg, require

OFF = Schedule(first=0.0, last=0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaSpec:
  """Interventions on the largest singular values of G's weights.

  Brock et al. 2019, sec. 4.1: they keep spectra from exploding, and do not by
  themselves keep a training from collapse.

  Attributes:
    clamp: after each update, W <- W - max(0, sigma0 - clamp) u0 v0^T; 0 is
      off.
    strength: of the penalty sum over layers of (sigma0 - goal)^2; 0 is off.
    goal: a fixed one; 0 takes `ratio` times sigma1, held constant.
    ratio: see `goal`.
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
  """A penalty on D from a package of one's own.

  Attributes:
    name: `package.module:Name` of a `DTerm` (`bigscale.losses.terms`).
    weight: of the mean over samples.
    interval: it is computed every so many steps, with so many times the
      weight; its scalar is 0 in between.
  """

  name: str
  weight: Schedule
  interval: int = 1

  def __post_init__(self) -> None:
    require(
      self.weight.first >= 0 and self.weight.last >= 0,
      f"the weight of loss.terms {self.name!r} must not be negative; it runs "
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
    """The `DTerm`."""
    return _losses("terms").find(self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSpec:
  """What the players minimize.

  Attributes:
    adversarial: a loss of ours (`OURS` of `bigscale.losses.adversarial`), or
      `package.module:Name` of another.
    label_smoothing: D's target for reals is 1 less this; of losses with
      targets.
    r1_gamma: weight of R1 on reals, times 1/2; 0 leaves it out.
    r2_gamma: the same for R2 on fakes.
    penalty_interval: R1 and R2 are computed every so many steps, with so many
      times the weight (Karras et al. 2020, sec. 3.1). `d/r1` and `d/r2` are
      logged as 0 in between.
    gradient_penalty: weight of (|grad D| - 1)^2 between reals and fakes
      (Gulrajani et al. 2017: 10).
    weight_clip: bound of D's weights after each update (Arjovsky et al. 2017:
      0.01); 0 is off.
    terms: further penalties on D.
    orthogonal: strength beta of G's orthogonal regularization,
      beta * ||W^T W o (1 - I)||^2 (Brock et al. 2019, eq. 3).
    orthogonal_form: `off_diagonal`, or `full`: ||W^T W - I||^2 (eq. 2).
    g_sigma: interventions on G's spectra.
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
        f"loss.{field} must not be negative; it runs from {gamma.first} to "
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
      f"{self.gradient_penalty} are two remedies for one thing; set one to 0",
    )

    scalars = ["d/gradient_penalty", *(term.row.scalar for term in self.terms)]
    require(
      len(set(scalars)) == len(scalars),
      f"loss.terms log under {', '.join(scalars[1:])}; give each a name of its "
      "own that is not d/gradient_penalty",
    )

  @property
  def paired(self) -> bool:
    """Whether each fake is compared with a real one."""
    return _losses("adversarial").find(self.adversarial).paired

  @property
  def threshold(self) -> float | None:
    """The logit above which D takes an image for real; None if it is free."""
    return _losses("adversarial").find(self.adversarial).threshold

  @property
  def d_terms(self) -> Sequence[TermSpec]:
    """All penalties on D that take a pass of their own; WGAN-GP's first."""
    weight = self.gradient_penalty
    if not weight:
      return self.terms
    ours = TermSpec(
      name="bigscale.losses.wgan_gp:TERM",
      weight=Schedule(first=weight, last=weight),
    )
    return (ours, *self.terms)


def _losses(module: str) -> Any:
  """A module of `bigscale.losses`, which itself imports the spec."""
  return importlib.import_module(f"bigscale.losses.{module}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentSpec:
  """Differentiable augmentation of what D sees, reals and fakes alike.

  Attributes:
    pipe: `none`; `diffaugment` (Zhao et al. 2020); `ada`, the pipe of
      StyleGAN2-ADA with R3GAN's strengths (Karras et al. 2020b).
    transforms: of `diffaugment`: color, translation, cutout; of `ada`: blit,
      geometric, color, cutout. Empty means all of the pipe's.
    probability: of each transform; with `target` only its first value.
    target: where given, the probability is driven so that a mean sign over
      the reals comes to this (ADA: 0.6): that of D(x) less the threshold of
      the loss, or of D(x) - D(G(z)) where it has none.
    target_interval: steps between adjustments.
    target_kimg: thousand images in which the probability can go from 0 to 1.
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
        f"augment.transforms names {name!r}, which the pipe {self.pipe!r} "
        f"does not have; it has {', '.join(known) or 'none'}",
      )
    for value in (self.probability.first, self.probability.last):
      require(
        0 <= value <= 1,
        f"augment.probability={value} must lie in [0, 1]",
      )
    require(
      self.target is None or 0 < self.target < 1,
      f"augment.target={self.target} must lie in (0, 1); 0.6 is ADA's",
    )
    require(
      self.target_interval >= 1 and self.target_kimg > 0,
      f"augment.target_interval={self.target_interval} must be 1 or more and "
      f"augment.target_kimg={self.target_kimg} positive",
    )
    check_kimg("augment.target_kimg", self.target_kimg)

  @property
  def chosen(self) -> tuple[str, ...]:
    """The transforms in use, in the pipe's order."""
    known = TRANSFORMS[self.pipe]
    return tuple(name for name in known if name in (self.transforms or known))


TRANSFORMS = {
  "none": (),
  "diffaugment": ("color", "translation", "cutout"),
  "ada": ("blit", "geometric", "color", "cutout"),
}
