"""The monitor's measurements: pure functions that return scalars.

All of them compute in float32 or better. The step computes the cheap ones. The
probe (`train/probe`) computes those of samples, every `monitor.interval` steps.
"""

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.types import Array, PyTree

# Number of cells along each side of the grid for pixel statistics.
_GRID = 4


def movement(
  gradients: PyTree, updates: PyTree, params: PyTree
) -> dict[str, Array]:
  """Returns norms [] of one update, and the number [] of weights not finite.

  Args:
    gradients: gradients of the loss.
    updates: values that were added to the weights.
    params: weights after the update.

  Returns:
    `grad_norm`, `update_norm`, `weight_norm`, and `nonfinite`, the number of
    weights that are infinite or NaN.
  """
  return {
    "grad_norm": norm(gradients),
    "update_norm": norm(updates),
    "weight_norm": norm(params),
    "nonfinite": sum(
      jnp.sum(~jnp.isfinite(x), dtype=jnp.float32)
      for x in jax.tree.leaves(params)
    ),
  }


def norm(tree: PyTree) -> Array:
  """Returns the Euclidean norm [] of all leaves together."""
  return jnp.sqrt(square(tree))


def square(tree: PyTree) -> Array:
  """Returns the sum [] of the squares of all entries."""
  squares = (jnp.sum(jnp.square(_wide(x))) for x in jax.tree.leaves(tree))
  return sum(squares)


def gradient_noise(
  part_square: Array, whole_square: Array, parts: int, batch_size: int
) -> dict[str, Array]:
  """Returns the two terms of the gradient noise scale, from one batch.

  Both are unbiased if samples are independent (McCandlish et al. 2018, eq.
  A.2). Their quotient is biased: divide means over many steps.

  Args:
    part_square: [] mean of ||gradient||^2 over equal parts of the batch.
    whole_square: [] ||gradient||^2 of the whole batch.
    parts: number of parts, at least 2.
    batch_size: number of samples in the whole batch.

  Returns:
    `gradient_signal` [], the square of the true gradient's norm, and
    `gradient_noise` [], the trace of a single sample's covariance.
  """
  apart = (part_square - whole_square) / (parts - 1)
  return {
    "gradient_signal": whole_square - apart,
    "gradient_noise": apart * batch_size,
  }


def distance(a: PyTree, b: PyTree) -> Array:
  """Returns ||a - b|| / ||b||, []."""
  apart = norm(jax.tree.map(lambda x, y: _wide(x) - _wide(y), a, b))
  return apart / jnp.maximum(norm(b), 1e-12)


def mean_pairwise_distance(features_nf: Array) -> Array:
  """Returns the mean distance [] between two samples of [N, F], N >= 2."""
  x_nf = _wide(features_nf)
  # Centering reduces the rounding error of the Gram matrix.
  gram_nn = _gram(x_nf - jnp.mean(x_nf, axis=0, keepdims=True))
  squares_n = jnp.diagonal(gram_nn)
  apart_nn = squares_n[:, None] + squares_n[None] - 2 * gram_nn
  count = len(x_nf)
  return jnp.sum(jnp.sqrt(jnp.maximum(apart_nn, 0))) / (count * (count - 1))


def effective_rank(features_nf: Array) -> Array:
  """Returns tr(C)^2 / tr(C^2), [], of the covariance C of samples [N, F].

  This participation ratio lies between 1 (all samples on one line) and
  min(N - 1, F). It is 0 if all samples are equal. tr(C^2) is computed as the
  squared norm of the Gram matrix, without eigenvalues.
  """
  x_nf = _wide(features_nf)
  gram_nn = _gram(x_nf - jnp.mean(x_nf, axis=0, keepdims=True))
  trace = jnp.trace(gram_nn)
  return trace**2 / jnp.maximum(jnp.sum(jnp.square(gram_nn)), 1e-30)


def pixel_statistics(images_bhwc: Array) -> Array:
  """Returns colors and local contrast of images on a coarse grid, [B, F].

  They do not depend on D, so they show a collapsed G even if D has collapsed.

  Args:
    images_bhwc: images in about [-1, 1]; the side is a multiple of 4.
  """
  x_bhwc = _wide(images_bhwc)
  right = jnp.abs(jnp.diff(x_bhwc, axis=2, append=x_bhwc[:, :, -1:]))
  down = jnp.abs(jnp.diff(x_bhwc, axis=1, append=x_bhwc[:, -1:]))
  maps_bhwm = jnp.concatenate([x_bhwc, right + down], axis=-1)
  batch, height, width, maps = maps_bhwm.shape
  cells = maps_bhwm.reshape(
    batch, _GRID, height // _GRID, _GRID, width // _GRID, maps
  )
  return jnp.mean(cells, axis=(2, 4)).reshape(batch, -1)


def moment_distance(fakes_nf: Array, reals_nf: Array) -> Array:
  """Returns the distance [] between means and deviations of two feature sets.

  This is the Frechet distance of Gaussians with diagonal covariances, divided
  by the total variance of the reals. It is 0 for equal moments, and 1 if every
  fake equals the mean of the reals.
  """
  fakes_nf, reals_nf = _wide(fakes_nf), _wide(reals_nf)
  means = jnp.mean(fakes_nf, axis=0) - jnp.mean(reals_nf, axis=0)
  deviations = jnp.std(fakes_nf, axis=0) - jnp.std(reals_nf, axis=0)
  apart = jnp.sum(jnp.square(means) + jnp.square(deviations))
  return apart / jnp.maximum(jnp.sum(jnp.var(reals_nf, axis=0)), 1e-12)


def heldout_gap(real: Array, heldout: Array, fake: Array) -> Array:
  """Returns r_v [] of Karras et al. 2020b, eq. 1, from logits [N] each.

  r_v = (E D(real) - E D(heldout)) / (E D(real) - E D(fake)). It is 0 if D does
  not distinguish train images from held-out images, and 1 if held-out images
  are as fake to D as fakes. It is clipped to [-2, 2], because it is arbitrarily
  large if D does not distinguish reals from fakes.
  """
  real, heldout, fake = (jnp.mean(_wide(x)) for x in (real, heldout, fake))
  apart = real - fake
  gap = (real - heldout) / jnp.where(apart == 0, 1e-12, apart)
  return jnp.clip(gap, -2, 2)


def _gram(x_nf: Array) -> Array:
  return jnp.matmul(x_nf, x_nf.T, precision=lax.Precision.HIGHEST)


def _wide(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
