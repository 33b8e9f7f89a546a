"""Latents and labels as functions of a key alone."""

import jax
import jax.numpy as jnp

from bigscale.spec import ModelSpec, require
from bigscale.types import Array


def normal(key: Array, count: int, dim: int, dtype: str) -> Array:
  """[count, dim] from N(0, I)."""
  return jax.random.normal(key, (count, dim), dtype)


def truncated(
  key: Array, count: int, dim: int, threshold: float, dtype: str
) -> Array:
  """[count, dim] from N(0, I) with every entry resampled into +-threshold.

  The truncation trick of Brock et al. 2019, sec. 3.1: lower thresholds trade
  variety for fidelity. An entry that is drawn again until it falls inside has
  the normal distribution given that it is inside; so has Phi^-1(U) with U
  uniform in [Phi(-threshold), Phi(threshold)], in one draw. Nothing is
  clipped: no mass gathers at the bounds. For one key an entry shrinks as the
  threshold does and keeps its sign, so that sheets of several thresholds show
  the same samples.
  """
  return jax.random.truncated_normal(
    key, -threshold, threshold, (count, dim), dtype
  )


def draw(
  key: Array, count: int, model: ModelSpec, truncation: float | None = None
) -> Array:
  """[count, latent_dim] for a model: `truncated`, or `normal` where None."""
  if truncation is None:
    return normal(key, count, model.latent_dim, model.dtype)
  return truncated(key, count, model.latent_dim, truncation, model.dtype)


def check_truncation(threshold: float | None) -> None:
  """Raises `SpecError` for a threshold that leaves no latents."""
  require(
    threshold is None or threshold > 0,
    f"truncation={threshold} must be positive; 0.5 is a usual value",
  )


def uniform_labels(key: Array, count: int, num_classes: int) -> Array:
  """[count] int32, uniform over the classes; zeros where there are none."""
  return jax.random.randint(key, (count,), 0, max(num_classes, 1), jnp.int32)
