"""Differentiable augmentation of D's inputs.

There are two pipelines. `diffaugment` is that of Zhao et al. 2020,
"Differentiable Augmentation for Data-Efficient GAN Training". `ada` is the
pipeline of StyleGAN2-ADA (Karras et al. 2020, "Training Generative Adversarial
Networks with Limited Data") with the strengths that R3GAN uses (Huang et al.
2024).

For given random parameters, every pipeline is linear or affine in the images,
so it can be differentiated as often as a penalty needs. It computes in float32
or wider. All random numbers are generated in advance, as one [B, n] array. The
augmentation of image i depends only on row i, for any number of devices.

Images that no transform applies to are returned bit for bit. With probability 0
these are all images.
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
  """An augmentation: a pure function of images and random numbers.

  Attributes:
    count: number of uniform random numbers per image.
    apply: function `apply(u_bn, images, probability)` that returns images of
      the same shape and dtype, without clipping. `u_bn` contains uniform
      numbers [B, count] float32 in [0, 1). `images` are [B, H, W, C] float in
      [-1, 1], C = 1 or 3 (H = W for `ada`). `probability` is [] float in [0, 1]
      and may be traced. Raises `SpecError` if the images have another shape.
  """

  count: int
  apply: Callable[[Array, Array, Array], Array]

  def __call__(
    self, key: Array, images_bhwc: Array, probability: Array
  ) -> Array:
    """Calls `apply` with new random numbers from a key."""
    u_bn = draws.uniform(key, images_bhwc.shape[0], self.count)
    return self.apply(u_bn, images_bhwc, probability)


def make(pipe: str, transforms: tuple[str, ...]) -> Augment:
  """Returns the augmentation of a pipeline.

  Args:
    pipe: `none`, `diffaugment` or `ada`.
    transforms: transforms of the pipeline to apply (`AugmentSpec.chosen`). They
      are applied in the pipeline's order.

  Returns:
    For `diffaugment`, an augmentation that applies each transform to each image
    with the given probability; the paper uses 1. For `ada`, one that applies
    each operation with the probability times the operation's multiplier
    (`bigscale.ops.augment.ada`).

  Raises:
    SpecError: there is no such pipeline, or it has no such transform.
  """
  if pipe not in TRANSFORMS:
    raise SpecError(
      f"augment.pipe={pipe!r} is unknown; use one of {', '.join(TRANSFORMS)}"
    )
  for name in transforms:
    if name not in TRANSFORMS[pipe]:
      raise SpecError(
        f"augment.transforms contains {name!r}, which the pipe {pipe!r} does "
        f"not have; it has {', '.join(TRANSFORMS[pipe]) or 'none'}"
      )
  if not transforms:
    return Augment(0, _untouched)
  module = {"diffaugment": diffaugment, "ada": ada}[pipe]
  apply = functools.partial(module.augment, frozenset(transforms))
  return Augment(module.COUNT, apply)


def _untouched(u_bn: Array, images_bhwc: Array, probability: Array) -> Array:
  del u_bn, probability
  return images_bhwc
