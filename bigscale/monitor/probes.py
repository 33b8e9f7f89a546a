"""What the monitor looks at, as small numbers: pure functions for the step.

Everything is float32 or better. The cheap ones are taken in every step, those
of samples at an interval (`train/probe`).
"""

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.types import Array, PyTree

# Side of the grid on which pixel statistics are taken.
_GRID = 4


def movement(
  gradients: PyTree, updates: PyTree, params: PyTree
) -> dict[str, Array]:
  """Of one update: norms [] of three trees, and a count of lost weights [].

  Args:
    gradients: of the loss.
    updates: what was added to the weights.
    params: the weights after it.

  Returns:
    `grad_norm`, `update_norm`, `weight_norm`, and `nonfinite`: how many
    weights are infinite or NaN.
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
  """[] Euclidean norm of all leaves together."""
  return jnp.sqrt(square(tree))


def square(tree: PyTree) -> Array:
  """[] sum of the squares of all entries."""
  squares = (jnp.sum(jnp.square(_wide(x))) for x in jax.tree.leaves(tree))
  return sum(squares)


def gradient_noise(
  part_square: Array, whole_square: Array, parts: int, batch_size: int
) -> dict[str, Array]:
  """What the gradient noise scale is made of, from one batch.

  Unbiased where samples are independent (McCandlish et al. 2018, eq. A.2).
  Their quotient is not: take it of means over many steps.

  Args:
    part_square: [] mean of ||gradient||^2 over equal parts of the batch.
    whole_square: [] ||gradient||^2 of the whole batch.
    parts: how many, 2 or more.
    batch_size: samples in all.

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
  """[] ||a - b|| / ||b||."""
  apart = norm(jax.tree.map(lambda x, y: _wide(x) - _wide(y), a, b))
  return apart / jnp.maximum(norm(b), 1e-12)


def mean_pairwise_distance(features_nf: Array) -> Array:
  """[] mean Euclidean distance of two different samples of [N, F], N >= 2."""
  x_nf = _wide(features_nf)
  # Centred: the Gram matrix loses fewer digits.
  gram_nn = _gram(x_nf - jnp.mean(x_nf, axis=0, keepdims=True))
  squares_n = jnp.diagonal(gram_nn)
  apart_nn = squares_n[:, None] + squares_n[None] - 2 * gram_nn
  count = len(x_nf)
  return jnp.sum(jnp.sqrt(jnp.maximum(apart_nn, 0))) / (count * (count - 1))


def effective_rank(features_nf: Array) -> Array:
  """[] participation ratio tr(C)^2 / tr(C^2) of the covariance C of [N, F].

  Between 1 (all on one line) and min(N - 1, F); 0 where all are equal. No
  eigenvalues are needed: tr(C^2) is the squared norm of the Gram matrix.
  """
  x_nf = _wide(features_nf)
  gram_nn = _gram(x_nf - jnp.mean(x_nf, axis=0, keepdims=True))
  trace = jnp.trace(gram_nn)
  return trace**2 / jnp.maximum(jnp.sum(jnp.square(gram_nn)), 1e-30)


def pixel_statistics(images_bhwc: Array) -> Array:
  """[B, F]: colors and local contrast of images on a coarse grid.

  They know nothing of D: a D that is itself lost cannot hide a lost G.

  Args:
    images_bhwc: in about [-1, 1], the side a multiple of 4.
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
  """[] how far apart means and deviations of two sets of features are.

  The Frechet distance of Gaussians with diagonal covariances, over the reals'
  total variance: 0 for equal moments, 1 for fakes that are all the reals' mean.
  """
  fakes_nf, reals_nf = _wide(fakes_nf), _wide(reals_nf)
  means = jnp.mean(fakes_nf, axis=0) - jnp.mean(reals_nf, axis=0)
  deviations = jnp.std(fakes_nf, axis=0) - jnp.std(reals_nf, axis=0)
  apart = jnp.sum(jnp.square(means) + jnp.square(deviations))
  return apart / jnp.maximum(jnp.sum(jnp.var(reals_nf, axis=0)), 1e-12)


def heldout_gap(real: Array, heldout: Array, fake: Array) -> Array:
  """[] r_v of Karras et al. 2020b, eq. 1, from logits [N] each.

  (E D(real) - E D(heldout)) / (E D(real) - E D(fake)): 0 where D tells seen
  from unseen reals as little as it should, 1 where unseen ones are fakes to it.
  Where D cannot tell reals from fakes it means nothing, and may be of any size:
  it is cut to [-2, 2].
  """
  real, heldout, fake = (jnp.mean(_wide(x)) for x in (real, heldout, fake))
  apart = real - fake
  gap = (real - heldout) / jnp.where(apart == 0, 1e-12, apart)
  return jnp.clip(gap, -2, 2)


def _gram(x_nf: Array) -> Array:
  return jnp.matmul(x_nf, x_nf.T, precision=lax.Precision.HIGHEST)


def _wide(x: Array) -> Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
