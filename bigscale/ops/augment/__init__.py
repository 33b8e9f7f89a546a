"""Differentiable augmentation of what the discriminator sees.

Two pipes: `diffaugment` (Zhao et al. 2020, "Differentiable Augmentation for
Data-Efficient GAN Training") and `ada`, the pipe of StyleGAN2-ADA (Karras et
al. 2020, "Training Generative Adversarial Networks with Limited Data") with
the strengths that R3GAN gives it (Huang et al. 2024).

Every pipe is linear or affine in the images once its parameters are drawn, so
that it can be differentiated as often as a penalty needs, and it computes in
float32 or wider. All random numbers are drawn beforehand, as one [B, n] array:
what happens to image i follows from row i alone, on any number of devices.

Images whose draws leave them alone are returned bit for bit; with
probability 0 that is all of them.
"""

import dataclasses
import functools
from collections.abc import Callable

from bigscale.ops.augment import ada, diffaugment, draws
from bigscale.spec import SpecError
from bigscale.spec.objective import TRANSFORMS
from bigscale.types import Array


@dataclasses.dataclass(frozen=True)
class Augment:
  """An augmentation: a pure function of images and what is drawn for them.

  Attributes:
    count: uniform numbers that an image uses up.
    apply: `apply(u_bn, images, probability)`: uniform numbers [B, count]
      float32 in [0, 1), images [B, H, W, C] float in [-1, 1], C = 1 or 3
      (H = W for `ada`), probability [] float in [0, 1], may be traced;
      returns images of the same shape and dtype, not clipped. Raises
      `SpecError` where the images do not fit.
  """

  count: int
  apply: Callable[[Array, Array, Array], Array]

  def __call__(
    self, key: Array, images_bhwc: Array, probability: Array
  ) -> Array:
    """As `apply`, with fresh numbers from a key."""
    u_bn = draws.uniform(key, images_bhwc.shape[0], self.count)
    return self.apply(u_bn, images_bhwc, probability)


def make(pipe: str, transforms: tuple[str, ...]) -> Augment:
  """The augmentation of that name.

  Args:
    pipe: `none`, `diffaugment` or `ada`.
    transforms: those in use, of the pipe's (`AugmentSpec.chosen`). They act
      in the pipe's own order.

  Returns:
    Of `diffaugment`: each transform is applied to each image with the
    probability; 1 is the paper. Of `ada`: each operation with the probability
    times its own multiplier (`bigscale.ops.augment.ada`).

  Raises:
    SpecError: there is no such pipe, or it has no such transform.
  """
  if pipe not in TRANSFORMS:
    raise SpecError(
      f"augment.pipe={pipe!r} is not known; use one of {', '.join(TRANSFORMS)}"
    )
  for name in transforms:
    if name not in TRANSFORMS[pipe]:
      raise SpecError(
        f"augment.transforms names {name!r}, which the pipe {pipe!r} does not "
        f"have; it has {', '.join(TRANSFORMS[pipe]) or 'none'}"
      )
  if not transforms:
    return Augment(0, _untouched)
  module = {"diffaugment": diffaugment, "ada": ada}[pipe]
  apply = functools.partial(module.augment, frozenset(transforms))
  return Augment(module.COUNT, apply)


def _untouched(u_bn: Array, images_bhwc: Array, probability: Array) -> Array:
  del u_bn, probability
  return images_bhwc
