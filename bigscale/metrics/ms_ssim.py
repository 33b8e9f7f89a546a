"""Similarity of images of one class, as a measure of diversity.

MS-SSIM (Wang et al. 2003) between random pairs within a class, averaged over
pairs and classes (Odena et al. 2017): 1 if all images are the same, lower the
more they differ. Compare with the value of reals, at the same resolution.

Each scale halves the image and needs 11 x 11 pixels: five scales need a side
of 176 px. Smaller images get fewer, with the first weights made to add up to 1
again, so values of different sides do not compare.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.metrics.features import KeptImages
from bigscale.parallel import interruption
from bigscale.spec import ScoreKind, require
from bigscale.types import Array

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW, _SIGMA = 11, 1.5
# Of images in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2
# Below two scales it would be SSIM.
_MIN_SIDE = 2 * _WINDOW
# Of each class, as Odena et al. draw.
_PAIRS = 100


class ClassSimilarity(NamedTuple):
  """MS-SSIM within classes.

  Attributes:
    ms_ssim: mean over classes, each counting the same.
    scales: 2 to 5, how many the images' side allowed.
    classes: [C] int64, labels, rising.
    of_class: [C] float64, mean over the pairs of each class.
  """

  ms_ssim: float
  scales: int
  classes: np.ndarray
  of_class: np.ndarray


def scales_of(height: int, width: int) -> int:
  """How many of the five scales images of this size have.

  Raises:
    SpecError: not even two.
  """
  side = min(height, width)
  require(
    side >= _MIN_SIDE,
    f"images of {height} x {width} px are too small for MS-SSIM, whose second "
    f"scale needs {_MIN_SIDE} px; score larger images",
  )
  return min(len(_WEIGHTS), int(np.log2(side / _WINDOW)) + 1)


@jax.jit
def ms_ssim(a_bhwc: Array, b_bhwc: Array) -> Array:
  """MS-SSIM of pairs of images.

  Computed for each channel and averaged over them. Windows lie wholly inside
  the image. Negative factors count as 0, since their powers are not real.

  Args:
    a_bhwc: [B, H, W, C] uint8.
    b_bhwc: [B, H, W, C] uint8.

  Returns:
    [B] float32 in [0, 1].

  Raises:
    SpecError: see `scales_of`.
  """
  scales = scales_of(*a_bhwc.shape[1:3])
  weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
  a, b = (x.astype(jnp.float32) / 255 for x in (a_bhwc, b_bhwc))
  result = jnp.ones((a.shape[0], a.shape[3]), jnp.float32)
  for scale, weight in enumerate(weights):
    if scale > 0:
      a, b = _halve(a), _halve(b)
    whole, contrast = _ssim(a, b)
    factor = whole if scale == scales - 1 else contrast
    result *= jnp.maximum(factor, 0.0) ** float(weight)
  return result.mean(1)


def intra_class_ms_ssim(
  images_nhwc: np.ndarray,
  labels_n: np.ndarray,
  *,
  pairs: int = _PAIRS,
  seed: int = 0,
  class_names: Sequence[str] | None = None,
  chunk: int = 64,
) -> ClassSimilarity:
  """Mean MS-SSIM of random pairs within each class.

  Args:
    images_nhwc: [N, H, W, C] uint8.
    labels_n: [N] integers; all zeros where there are no classes.
    pairs: of two different images, in each class; no ordered pair is drawn
      twice, so small classes have fewer.
    seed: of the pairs.
    class_names: by label, for messages.
    chunk: pairs computed at once.

  Raises:
    SpecError: images are not uint8 or too small, a class has one image only,
      there is none, or `pairs` or `chunk` is below 1.
  """
  require(
    images_nhwc.dtype == np.uint8 and images_nhwc.ndim == 4,
    f"images are {images_nhwc.dtype} {list(images_nhwc.shape)}, MS-SSIM takes "
    "uint8 [N, H, W, C]; convert them",
  )
  require(
    pairs >= 1 and chunk >= 1,
    f"pairs={pairs} in chunks of {chunk} are none; use 1 or more of both",
  )
  scales = scales_of(*images_nhwc.shape[1:3])
  drawn, of_pair = _draw(labels_n, pairs, seed, class_names)
  values = np.empty(len(drawn))
  for start in range(0, len(drawn), chunk):
    interruption.point()
    some = drawn[start : start + chunk]
    # The last chunk is filled up: one shape, one compilation.
    padded = np.pad(some, ((0, chunk - len(some)), (0, 0)))
    out = ms_ssim(images_nhwc[padded[:, 0]], images_nhwc[padded[:, 1]])
    values[start : start + chunk] = np.asarray(out)[: len(some)]
  classes = np.unique(of_pair)
  of_class = np.array([values[of_pair == label].mean() for label in classes])
  return ClassSimilarity(float(of_class.mean()), scales, classes, of_class)


def _draw(
  labels_n: np.ndarray,
  pairs: int,
  seed: int,
  class_names: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Indices [P, 2] of two different images of a class, and the classes [P]."""
  require(len(labels_n) > 0, "there are no images to compare; give some")
  rng = np.random.default_rng(seed)
  drawn, of_pair = [], []
  for label in np.unique(labels_n):
    rows = np.flatnonzero(labels_n == label)
    count = len(rows)
    name = f" ({class_names[label]})" if class_names is not None else ""
    require(
      count >= 2,
      f"class {label}{name} has {count} image, MS-SSIM compares pairs within "
      "a class; give at least 2 of it, or leave the class out",
    )
    # All ordered pairs of different images, numbered.
    every = count * (count - 1)
    chosen = rng.choice(every, min(pairs, every), replace=False)
    first, other = np.divmod(chosen, count - 1)
    other += other >= first
    drawn.append(rows[np.stack([first, other], 1)])
    of_pair.append(np.full(len(chosen), label, np.int64))
  return np.concatenate(drawn), np.concatenate(of_pair)


def _ssim(a_bhwc: Array, b_bhwc: Array) -> tuple[Array, Array]:
  """Mean over positions of SSIM and of its contrast factor alone, [B, C]."""
  mean_a, mean_b = _blur(a_bhwc), _blur(b_bhwc)
  products = mean_a * mean_b
  squares = mean_a**2 + mean_b**2
  covariance = _blur(a_bhwc * b_bhwc) - products
  variances = _blur(a_bhwc**2 + b_bhwc**2) - squares
  contrast = (2 * covariance + _C2) / (variances + _C2)
  luminance = (2 * products + _C1) / (squares + _C1)
  return (luminance * contrast).mean((1, 2)), contrast.mean((1, 2))


def _blur(x_bhwc: Array) -> Array:
  """Gaussian windows, as products with banded matrices.

  Convolutions of single channels are slow on CPU, and round to bfloat16 on TPU
  by default.
  """
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  rows = multiply("oh,bhwc->bowc", _band(x_bhwc.shape[1]), x_bhwc)
  return multiply("ow,bhwc->bhoc", _band(x_bhwc.shape[2]), rows)


def _band(size: int) -> np.ndarray:
  """[size - 10, size] float32; each row a window one step further."""
  offset = np.arange(_WINDOW) - _WINDOW // 2
  window = np.exp(-(offset**2) / (2 * _SIGMA**2))
  window /= window.sum()
  band = np.zeros((size - _WINDOW + 1, size), np.float32)
  for row in range(len(band)):
    band[row, row : row + _WINDOW] = window
  return band


def _halve(x_bhwc: Array) -> Array:
  """Means of 2 x 2 pixels; an odd last row or column is left out."""
  b, h, w, c = x_bhwc.shape
  x_bhwc = x_bhwc[:, : h // 2 * 2, : w // 2 * 2]
  return x_bhwc.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _score(samples: KeptImages) -> dict[str, float]:
  """Each class counts the same."""
  found = intra_class_ms_ssim(
    samples.images, samples.labels, class_names=samples.class_names or None
  )
  return {"ms_ssim": found.ms_ssim}


MS_SSIM = ScoreKind(
  name="ms_ssim",
  # Less alike is more diverse.
  columns={"ms_ssim": "less"},
  compute=_score,
  over="pixels",
  # Two of a class make a pair.
  fewest_samples=2,
  within_classes=True,
  smallest_side=_MIN_SIDE,
  images_per_class=2 * _PAIRS,
  protocol=lambda shape: {"scales": scales_of(*shape[:2]), "pairs": _PAIRS},
)
