"""From two flax modules to the pure functions that the rest of us sees."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bigscale.models.blocks import Gather, gather_rest
from bigscale.models.layers import Conv
from bigscale.spec import ModelSpec, require
from bigscale.types import Array, GanModel, Network, Variables

Select = Callable[[str], bool]

# A discriminator's last layer has one of these names.
HEADS = (("linear",), ("logit",))


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
  gather: Gather | None,
  *,
  g_spectral: Select = never,
  d_spectral: Select = never,
  g_orthogonal: Select,
  d_orthogonal: Select,
) -> GanModel:
  """Wraps a generator and a discriminator.

  Args:
    g: called with (latents, labels, train=...); has a field `gather` for its
      blocks and, where it has batch norm, a field `moments`.
    d: called with (images, labels); the same.
    spec: of both.
    gather: of parameters that are split over devices, where `apply` runs;
      None where they are whole. See `blocks`.
    g_spectral: parameters of G with spectral norm, by path.
    d_spectral: those of D.
    g_orthogonal: parameters that orthogonal regularization covers.
    d_orthogonal: those of D.
  """
  latents, labels, images = _examples(spec)
  first_g, first_d = g, d  # At the start weights are whole.
  g, d = g.clone(gather=gather), d.clone(gather=gather)

  def init_g(key: Array) -> Variables:
    variables = first_g.init(key, latents, labels, train=True)
    stats = variables.get("batch_stats", {})
    return {"params": variables["params"], "batch_stats": stats}

  def init_d(key: Array) -> Variables:
    variables = first_d.init(key, images, labels)
    return {"params": variables["params"], "batch_stats": {}}

  def apply_d(variables: Variables, images: Array, labels: Array) -> Array:
    params = gather_rest(gather, variables["params"])
    return d.apply({"params": params}, images, labels)

  halves = [_half(init, spec) for init in (init_g, init_d)]
  return GanModel(
    g=Network(
      init_g,
      _generate(g, gather),
      g_spectral,
      _tracked(g_spectral),
      g_orthogonal,
      halves[0],
    ),
    d=Network(
      init_d,
      apply_d,
      d_spectral,
      _tracked(d_spectral),
      d_orthogonal,
      halves[1],
      _with_features(apply_d),
    ),
  )


def _generate(
  g: nn.Module, gather: Gather | None
) -> Callable[..., tuple[Array, Variables]]:
  """G's `apply`, see `GanModel`."""

  def apply(
    variables: Variables,
    latents: Array,
    labels: Array,
    *,
    train: bool,
    passes: int = 1,
  ) -> tuple[Array, Variables]:
    stats = variables["batch_stats"]
    params = gather_rest(gather, variables["params"])
    collections = {"params": params, "batch_stats": stats}
    if not (train and stats):
      return g.apply(collections, latents, labels, train=train), stats
    moments = dataclasses.replace(g.moments, passes=passes)
    images, changed = g.clone(moments=moments).apply(
      collections, latents, labels, train=True, mutable=["batch_stats"]
    )
    return images, changed["batch_stats"]

  return apply


def _examples(spec: ModelSpec) -> tuple[Array, Array, Array]:
  """Latents, labels and images, one each."""
  image = (1, spec.resolution, spec.resolution, spec.image_channels)
  return (
    jnp.zeros((1, spec.latent_dim), spec.dtype),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(image, spec.dtype),
  )


def _with_features(
  apply: Callable[[Variables, Array, Array], Array],
) -> Callable[[Variables, Array, Array], tuple[Array, Array]]:
  """D's pass that also gives what its last layer sees."""

  def features(
    variables: Variables, images: Array, labels: Array
  ) -> tuple[Array, Array]:
    seen: list[Array] = []

    def watch(
      call: Callable[..., Any],
      inputs: Sequence[Array],
      options: Mapping[str, Any],
      context: nn.module.InterceptorContext,
    ) -> Any:
      if context.module.path in HEADS and context.method_name == "__call__":
        seen.append(inputs[0])
      return call(*inputs, **options)

    with nn.intercept_methods(watch):
      logits = apply(variables, images, labels)
    require_head(len(seen))
    return logits, seen[0]

  return features


def require_head(count: int) -> None:
  """Raises `SpecError` unless D has one last layer that the probe knows.

  Args:
    count: of layers with a name of such a head.
  """
  names = " or ".join("/".join(path) for path in HEADS)
  require(
    count == 1,
    f"the monitor's probe reads the input of D's last layer, and found {count} "
    f"layers called {names} at the top of D: give the last one, and no other, "
    "such a name, or add its name to HEADS of bigscale/models/networks.py",
  )


def _half(init: Callable[[Array], Variables], spec: ModelSpec) -> Select:
  """Kernels of the convolutions that see half-precision maps."""

  @functools.cache
  def kernels() -> frozenset[str]:
    """Found by watching one pass, so that no second table can be wrong."""
    found = set()

    def watch(
      call: Callable[..., Any],
      inputs: Sequence[Array],
      options: Mapping[str, Any],
      context: nn.module.InterceptorContext,
    ) -> Any:
      is_conv = isinstance(context.module, Conv)
      if is_conv and inputs[0].dtype == jnp.bfloat16:
        found.add("/".join((*context.module.path, "kernel")))
      return call(*inputs, **options)

    with nn.intercept_methods(watch):
      # A function of its own: JAX remembers traces, and would not call again.
      jax.eval_shape(lambda: init(jax.random.key(0)))
    return frozenset(found)

  return (lambda path: path in kernels()) if spec.bf16_stages else never


def _tracked(spectral: Select) -> Select:
  """All that is like a matrix, and whatever has spectral norm."""
  return lambda path: is_kernel(path) or spectral(path)
