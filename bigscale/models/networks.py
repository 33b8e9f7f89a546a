"""From two flax modules to the pure functions that the rest of us sees."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from bigscale.spec import ModelSpec
from bigscale.types import Array, GanModel, Network, Variables

Select = Callable[[str], bool]


def is_kernel(path: str) -> bool:
  """Convolutions and matrices, not embeddings, bases, gains and biases."""
  return path.endswith("kernel")


def never(path: str) -> bool:
  """Selects nothing."""
  del path
  return False


def gan_model(
  g: nn.Module,
  d: nn.Module,
  spec: ModelSpec,
  *,
  g_spectral: Select = never,
  d_spectral: Select = never,
  g_orthogonal: Select,
  d_orthogonal: Select,
) -> GanModel:
  """Wraps a generator and a discriminator.

  Args:
    g: called with (latents, labels, train=...).
    d: called with (images, labels).
    spec: of both.
    g_spectral: parameters of G with spectral norm, by path.
    d_spectral: those of D.
    g_orthogonal: parameters that orthogonal regularization covers.
    d_orthogonal: those of D.
  """
  labels = jnp.zeros(1, jnp.int32)
  latents = jnp.zeros((1, spec.latent_dim), spec.dtype)
  side = spec.resolution
  images = jnp.zeros((1, side, side, spec.image_channels), spec.dtype)

  def init_g(key: Array) -> Variables:
    variables = g.init(key, latents, labels, train=True)
    return {
      "params": variables["params"],
      "batch_stats": variables.get("batch_stats", {}),
    }

  def init_d(key: Array) -> Variables:
    return {"params": d.init(key, images, labels)["params"], "batch_stats": {}}

  def apply_g(
    variables: Variables, latents: Array, labels: Array, *, train: bool
  ) -> tuple[Array, Variables]:
    stats = variables["batch_stats"]
    collections = {"params": variables["params"], "batch_stats": stats}
    if not (train and stats):
      return g.apply(collections, latents, labels, train=train), stats
    images, changed = g.apply(
      collections, latents, labels, train=True, mutable=["batch_stats"]
    )
    return images, changed["batch_stats"]

  def apply_d(variables: Variables, images: Array, labels: Array) -> Array:
    return d.apply({"params": variables["params"]}, images, labels)

  return GanModel(
    g=Network(init_g, apply_g, g_spectral, _tracked(g_spectral), g_orthogonal),
    d=Network(init_d, apply_d, d_spectral, _tracked(d_spectral), d_orthogonal),
  )


def _tracked(spectral: Select) -> Select:
  """All that is like a matrix, and whatever has spectral norm."""
  return lambda path: is_kernel(path) or spectral(path)
