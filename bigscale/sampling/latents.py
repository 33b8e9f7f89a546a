"""Draws latents and labels, which depend only on a key."""

import math

import jax
import jax.numpy as jnp

from bigscale.spec import TRUNCATION_RULES, ModelBase, TruncationRule, require
from bigscale.types import Array

# The official modules multiply `truncnorm(-2, 2)` by the truncation.
_TFHUB_BOUND = 2.0


def normal(key: Array, count: int, dim: int, dtype: str) -> Array:
  """Draws [count, dim] from N(0, I)."""
  return jax.random.normal(key, (count, dim), dtype)


def truncated(
  key: Array, count: int, dim: int, threshold: float, dtype: str
) -> Array:
  """Draws [count, dim] from N(0, I), with entries resampled into +-threshold.

  This is the truncation trick of Brock et al. 2019, sec. 3.1: lower thresholds
  trade variety for fidelity. An entry that is resampled until it falls inside
  has the normal distribution conditioned on being inside. Phi^-1(U) with U
  uniform in [Phi(-threshold), Phi(threshold)] has the same distribution and
  needs one draw. Entries are not clipped, so no mass accumulates at the bounds.
  For a given key, an entry keeps its sign and shrinks with the threshold, so
  sheets with several thresholds show the same samples.
  """
  return jax.random.truncated_normal(
    key, -threshold, threshold, (count, dim), dtype
  )


def law(
  truncation: float | None, rule: TruncationRule = "resample"
) -> tuple[float | None, float]:
  """Returns the bound and the scale of latents under a truncation.

  Latents are `scale` times a normal whose entries are resampled into
  [-bound, bound], or times a plain normal if the bound is None:

  - `resample`: the bound is the truncation and the scale is 1 (Brock et al.
    2019).
  - `scale`: the bound is 2 and the scale is the truncation (the official TF-Hub
    modules and their ports). The same truncation means different latents: at
    0.4 the standard deviation is 0.228 under `resample` and 0.352 under
    `scale`.
  """
  if truncation is None:
    return None, 1.0
  return (truncation, 1.0) if rule == "resample" else (_TFHUB_BOUND, truncation)


def draw(
  key: Array,
  count: int,
  model: ModelBase,
  truncation: float | None = None,
  rule: TruncationRule = "resample",
) -> Array:
  """Draws latents [count, latent_dim] for a model, distributed as in `law`."""
  bound, scale = law(truncation, rule)
  if bound is None:
    return normal(key, count, model.latent_dim, model.dtype)
  return scale * truncated(key, count, model.latent_dim, bound, model.dtype)


def check_truncation(
  truncation: float | None, rule: TruncationRule = "resample"
) -> None:
  """Raises `SpecError` if the truncation is not valid under the rule."""
  require(
    rule in TRUNCATION_RULES,
    f"truncation_rule={rule!r} must be one of {', '.join(TRUNCATION_RULES)}",
  )
  if truncation is None:
    return
  require(
    0 < truncation < math.inf,
    f"truncation={truncation} must be positive and finite; 0.5 is a typical "
    "value",
  )
  require(
    rule != "scale" or truncation <= 1,
    f"truncation={truncation} must lie in (0, 1] under truncation_rule="
    "'scale', which draws truncation * truncnorm(-2, 2); use 1 for the widest "
    "latents that this rule allows, or set truncation_rule='resample'",
  )


def uniform_labels(key: Array, count: int, num_classes: int) -> Array:
  """Draws [count] int32, uniform over classes; zeros without classes."""
  return jax.random.randint(key, (count,), 0, max(num_classes, 1), jnp.int32)
