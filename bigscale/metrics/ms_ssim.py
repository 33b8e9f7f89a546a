"""MS-SSIM between images of the same class, a measure of diversity.

MS-SSIM (Wang et al. 2003) is computed between random pairs within a class and
averaged over pairs and classes (Odena et al. 2017). It is 1 if all images are
equal, and lower the more they differ. Compare it with the value of reals at the
same resolution.

Each scale halves the image and needs at least 11 x 11 pixels, so all five
scales need a side of 176 px. Smaller images use fewer scales, with the first
weights rescaled to sum to 1. Values at different resolutions are therefore not
comparable.
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
# For images in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2
# A single scale would be SSIM, so at least two are required.
_MIN_SIDE = 2 * _WINDOW
# Number of pairs per class, as in Odena et al.
_PAIRS = 100


class ClassSimilarity(NamedTuple):
  """MS-SSIM within classes.

  Attributes:
    ms_ssim: mean over classes, with equal weights.
    scales: number of scales, 2 to 5, that the image size allows.
    classes: [C] int64, labels in ascending order.
    of_class: [C] float64, mean over the pairs of each class.
  """

  ms_ssim: float
  scales: int
  classes: np.ndarray
  of_class: np.ndarray


def scales_of(height: int, width: int) -> int:
  """Returns how many of the five scales images of this size allow.

  Raises:
    SpecError: the images do not allow two scales.
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
  """Returns the MS-SSIM of pairs of images.

  It is computed per channel and averaged over channels. Windows lie entirely
  inside the image. Negative factors are replaced by 0, because their powers are
  not real.

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
  """Returns the mean MS-SSIM of random pairs within each class.

  Args:
    images_nhwc: [N, H, W, C] uint8.
    labels_n: [N] integers; all zeros if there are no classes.
    pairs: number of pairs of different images per class. No ordered pair occurs
      twice, so small classes have fewer.
    seed: seed of the choice of pairs.
    class_names: class names by label, for messages.
    chunk: number of pairs computed at once.

  Raises:
    SpecError: images are not uint8 or too small, a class has only one image,
      there are no images, or `pairs` or `chunk` is below 1.
  """
  require(
    images_nhwc.dtype == np.uint8 and images_nhwc.ndim == 4,
    f"images are {images_nhwc.dtype} {list(images_nhwc.shape)}, but MS-SSIM "
    "takes uint8 [N, H, W, C]; convert them",
  )
  require(
    pairs >= 1 and chunk >= 1,
    f"pairs={pairs} and chunk={chunk} must both be 1 or more",
  )
  scales = scales_of(*images_nhwc.shape[1:3])
  drawn, of_pair = _draw(labels_n, pairs, seed, class_names)
  values = np.empty(len(drawn))
  for start in range(0, len(drawn), chunk):
    interruption.point()
    some = drawn[start : start + chunk]
    # The last chunk is padded, so that only one shape is compiled.
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
  """Draws index pairs [P, 2] within classes; also returns their labels [P]."""
  require(len(labels_n) > 0, "there are no images to compare; provide some")
  rng = np.random.default_rng(seed)
  drawn, of_pair = [], []
  for label in np.unique(labels_n):
    rows = np.flatnonzero(labels_n == label)
    count = len(rows)
    name = f" ({class_names[label]})" if class_names is not None else ""
    require(
      count >= 2,
      f"class {label}{name} has {count} image, but MS-SSIM compares pairs "
      "within a class; give at least 2, or leave the class out",
    )
    # Numbers all ordered pairs of different images.
    every = count * (count - 1)
    chosen = rng.choice(every, min(pairs, every), replace=False)
    first, other = np.divmod(chosen, count - 1)
    other += other >= first
    drawn.append(rows[np.stack([first, other], 1)])
    of_pair.append(np.full(len(chosen), label, np.int64))
  return np.concatenate(drawn), np.concatenate(of_pair)


def _ssim(a_bhwc: Array, b_bhwc: Array) -> tuple[Array, Array]:
  """Returns the mean SSIM and the mean of its contrast factor, each [B, C]."""
  mean_a, mean_b = _blur(a_bhwc), _blur(b_bhwc)
  products = mean_a * mean_b
  squares = mean_a**2 + mean_b**2
  covariance = _blur(a_bhwc * b_bhwc) - products
  variances = _blur(a_bhwc**2 + b_bhwc**2) - squares
  contrast = (2 * covariance + _C2) / (variances + _C2)
  luminance = (2 * products + _C1) / (squares + _C1)
  return (luminance * contrast).mean((1, 2)), contrast.mean((1, 2))


def _blur(x_bhwc: Array) -> Array:
  """Applies a Gaussian window, as products with banded matrices.

  Single-channel convolutions are slow on CPU and round to bfloat16 on TPU by
  default.
  """
  multiply = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
  rows = multiply("oh,bhwc->bowc", _band(x_bhwc.shape[1]), x_bhwc)
  return multiply("ow,bhwc->bhoc", _band(x_bhwc.shape[2]), rows)


def _band(size: int) -> np.ndarray:
  """Returns the [size - 10, size] float32 matrix of a sliding window."""
  offset = np.arange(_WINDOW) - _WINDOW // 2
  window = np.exp(-(offset**2) / (2 * _SIGMA**2))
  window /= window.sum()
  band = np.zeros((size - _WINDOW + 1, size), np.float32)
  for row in range(len(band)):
    band[row, row : row + _WINDOW] = window
  return band


def _halve(x_bhwc: Array) -> Array:
  """Averages 2 x 2 pixels; drops an odd last row or column."""
  b, h, w, c = x_bhwc.shape
  x_bhwc = x_bhwc[:, : h // 2 * 2, : w // 2 * 2]
  return x_bhwc.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _score(samples: KeptImages) -> dict[str, float]:
  """Returns the mean over classes, with equal weights."""
  found = intra_class_ms_ssim(
    samples.images, samples.labels, class_names=samples.class_names or None
  )
  return {"ms_ssim": found.ms_ssim}


MS_SSIM = ScoreKind(
  name="ms_ssim",
  # Less similarity means more diversity.
  columns={"ms_ssim": "less"},
  compute=_score,
  over="pixels",
  # A pair needs two images of a class.
  fewest_samples=2,
  within_classes=True,
  smallest_side=_MIN_SIDE,
  images_per_class=2 * _PAIRS,
  protocol=lambda shape: {"scales": scales_of(*shape[:2]), "pairs": _PAIRS},
)
