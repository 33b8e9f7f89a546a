"""Latents and labels as functions of a key alone."""

import math

import jax
import jax.numpy as jnp

from bigscale.spec import TRUNCATION_RULES, ModelBase, TruncationRule, require
from bigscale.types import Array

# Of `truncnorm(-2, 2)`, which the official modules are given times truncation.
_TFHUB_BOUND = 2.0


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


def law(
  truncation: float | None, rule: TruncationRule = "resample"
) -> tuple[float | None, float]:
  """Returns the bound and the scale of latents under a truncation.

  Latents are `scale` times a normal whose entries are resampled into
  [-bound, bound], or a plain normal where the bound is None:

  - `resample`: the bound is the truncation, the scale 1 (Brock et al. 2019).
  - `scale`: the bound is 2, the scale the truncation (the official TF-Hub
    modules and their ports). One number means different things: at 0.4 the
    standard deviation is 0.228 under `resample` and 0.352 under `scale`.
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
  """Returns latents [count, latent_dim] for a model, distributed by `law`."""
  bound, scale = law(truncation, rule)
  if bound is None:
    return normal(key, count, model.latent_dim, model.dtype)
  return scale * truncated(key, count, model.latent_dim, bound, model.dtype)


def check_truncation(
  truncation: float | None, rule: TruncationRule = "resample"
) -> None:
  """Raises `SpecError` for a truncation that the rule gives no meaning."""
  require(
    rule in TRUNCATION_RULES,
    f"truncation_rule={rule!r} must be one of {', '.join(TRUNCATION_RULES)}",
  )
  if truncation is None:
    return
  require(
    0 < truncation < math.inf,
    f"truncation={truncation} must be positive and finite; 0.5 is a usual "
    "value",
  )
  require(
    rule != "scale" or truncation <= 1,
    f"truncation={truncation} must lie in (0, 1] under truncation_rule="
    "'scale', which draws truncation * truncnorm(-2, 2); use 1 for the widest "
    "latents of that rule, or the rule 'resample'",
  )


def uniform_labels(key: Array, count: int, num_classes: int) -> Array:
  """[count] int32, uniform over the classes; zeros where there are none."""
  return jax.random.randint(key, (count,), 0, max(num_classes, 1), jnp.int32)
