"""Latents and labels as functions of a key alone."""

import jax
import jax.numpy as jnp

from bigscale.types import Array


def normal(key: Array, count: int, dim: int, dtype: str) -> Array:
  """[count, dim] from N(0, I)."""
  return jax.random.normal(key, (count, dim), dtype)


def truncated(
  key: Array, count: int, dim: int, threshold: float, dtype: str
) -> Array:
  """[count, dim] from N(0, I) with every entry resampled into +-threshold.

  The truncation trick of Brock et al. 2019, sec. 3.1: lower thresholds trade
  variety for fidelity.
  """
  return jax.random.truncated_normal(
    key, -threshold, threshold, (count, dim), dtype
  )


def uniform_labels(key: Array, count: int, num_classes: int) -> Array:
  """[count] int32, uniform over the classes; zeros where there are none."""
  return jax.random.randint(key, (count,), 0, max(num_classes, 1), jnp.int32)
