"""What the players minimize, from logits [B] to one value a sample [B].

All at least float32, whatever the networks computed in.
"""

import jax
import jax.numpy as jnp

from bigscale.types import Array


def at_least_float32(x: Array) -> Array:
  """Losses and penalties never run in a half precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rpgan_d(real: Array, fake: Array) -> Array:
  """softplus(-(D(x) - D(G(z)))), the i-th real beside the i-th fake.

  Source: Huang et al. 2024, eq. 2, f(t) = -log(1 + e^-t).
  """
  return jax.nn.softplus(at_least_float32(fake) - at_least_float32(real))


def rpgan_g(real: Array, fake: Array) -> Array:
  """softplus(-(D(G(z)) - D(x))); the reals are the constant of each pair."""
  return jax.nn.softplus(at_least_float32(real) - at_least_float32(fake))


def hinge_d_real(real: Array) -> Array:
  """max(0, 1 - D(x)) (Lim and Ye 2017)."""
  return jax.nn.relu(1 - at_least_float32(real))


def hinge_d_fake(fake: Array) -> Array:
  """max(0, 1 + D(G(z)))."""
  return jax.nn.relu(1 + at_least_float32(fake))


def hinge_g(fake: Array) -> Array:
  """-D(G(z))."""
  return -at_least_float32(fake)
