"""Clipping of D's weights."""

import jax
import jax.numpy as jnp

from bigscale.types import PyTree


def clip(params: PyTree, bound: float) -> PyTree:
  """Clips weights to [-bound, bound] (Arjovsky et al. 2017, algorithm 1)."""
  return jax.tree.map(lambda leaf: jnp.clip(leaf, -bound, bound), params)
