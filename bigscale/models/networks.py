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
from bigscale.spec import ModelBase, require
from bigscale.types import Array, GanModel, Network, PyTree, Variables

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
  spec: ModelBase,
  gather: Gather | None,
  *,
  g_spectral: Select = never,
  d_spectral: Select = never,
  g_orthogonal: Select = is_kernel,
  d_orthogonal: Select = is_kernel,
  d_head: str | None = None,
) -> GanModel:
  """Wraps a generator and a discriminator.

  Args:
    g: called with (latents, labels, train=...) to images. Where it has batch
      norm it has a field `moments`; where its blocks gather their own weights,
      a field `gather` (`blocks.block`).
    d: called with (images, labels) to logits [B]; may have a field `gather`.
    spec: of both.
    gather: of parameters that are split over devices, where `apply` runs;
      None where they are whole. See `blocks`.
    g_spectral: parameters of G with spectral norm, by path.
    d_spectral: those of D.
    g_orthogonal: parameters that orthogonal regularization covers.
    d_orthogonal: those of D.
    d_head: path of the layer of D, "trunk/last", whose input the monitor's
      probe looks at. None takes the last layer that has a kernel.
  """
  latents, labels, images = _examples(spec)
  first_g, first_d = g, d  # At the start weights are whole.
  g, d = _with_gather(g, gather), _with_gather(d, gather)

  def init_g(key: Array) -> Variables:
    variables = first_g.init(key, latents, labels, train=True)
    stats = variables.get("batch_stats", {})
    return {"params": variables["params"], "batch_stats": stats}

  def init_d(key: Array) -> Variables:
    variables = first_d.init(key, images, labels)
    return {"params": variables["params"], "batch_stats": {}}

  def apply_d(variables: Variables, images: Array, labels: Array) -> Array:
    params = _gathered(d, gather, variables["params"])
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
      _with_features(apply_d, d_head),
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
    params = _gathered(g, gather, variables["params"])
    collections = {"params": params, "batch_stats": stats}
    if not (train and stats):
      return g.apply(collections, latents, labels, train=train), stats
    moments = dataclasses.replace(g.moments, passes=passes)
    images, changed = g.clone(moments=moments).apply(
      collections, latents, labels, train=True, mutable=["batch_stats"]
    )
    return images, changed["batch_stats"]

  return apply


def _with_gather(network: nn.Module, gather: Gather | None) -> nn.Module:
  """The module whose blocks gather their weights, where it has any."""
  return network.clone(gather=gather) if _gathers(network) else network


def _gathers(network: nn.Module) -> bool:
  return any(field.name == "gather" for field in dataclasses.fields(network))


def _gathered(
  network: nn.Module, gather: Gather | None, params: PyTree
) -> PyTree:
  """Parameters as the module takes them."""
  if gather is None or _gathers(network):
    return gather_rest(gather, params)
  return gather(params)


def _examples(spec: ModelBase) -> tuple[Array, Array, Array]:
  """Latents, labels and images, one each."""
  image = (1, spec.resolution, spec.resolution, spec.image_channels)
  return (
    jnp.zeros((1, spec.latent_dim), spec.dtype),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(image, spec.dtype),
  )


def _with_features(
  apply: Callable[[Variables, Array, Array], Array], head: str | None
) -> Callable[[Variables, Array, Array], tuple[Array, Array]]:
  """D's pass that also gives what its last layer sees, [B, F]."""

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
      path = context.module.path
      if head is None:
        is_head = _has_kernel(variables["params"], path)
      else:
        is_head = "/".join(path) == head
      if is_head and context.method_name == "__call__" and inputs:
        seen.append(inputs[0])
      return call(*inputs, **options)

    with nn.intercept_methods(watch):
      logits = apply(variables, images, labels)
    require(
      bool(seen),
      "the monitor's probe reads the input of D's last layer, and found "
      + ("no layer with a kernel in D" if head is None else f"no {head!r}")
      + "; name the layer by d_head of bigscale.models.networks.gan_model",
    )
    x = seen[-1]
    if x.ndim > 2:  # Of a map or of tokens.
      x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    return logits, x

  return features


def _has_kernel(params: PyTree, path: Sequence[str]) -> bool:
  """Whether the module at a path has a kernel of its own."""
  for name in path:
    if not isinstance(params, Mapping) or name not in params:
      return False
    params = params[name]
  return isinstance(params, Mapping) and "kernel" in params


def _half(init: Callable[[Array], Variables], spec: ModelBase) -> Select:
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
