"""Wraps two Flax modules as the pure functions of a `GanModel`."""

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
  """Returns whether a parameter is a convolution's or linear layer's kernel."""
  return path.endswith("kernel")


def never(path: str) -> bool:
  """Returns False for every path."""
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
    g: module that maps (latents, labels, train=...) to images. A module with
      batch norm must have a field `moments`. A module whose blocks gather their
      own weights must have a field `gather` (`blocks.block`).
    d: module that maps (images, labels) to logits [B]; may have a field
      `gather`.
    spec: spec of the model.
    gather: function that gathers sharded parameters inside `apply`, or None if
      they are not sharded; see `blocks`.
    g_spectral: selects the parameters of G with spectral norm, by path.
    d_spectral: selects the parameters of D with spectral norm, by path.
    g_orthogonal: selects the parameters of G that orthogonal regularization
      covers, by path.
    d_orthogonal: selects the parameters of D that orthogonal regularization
      covers, by path.
    d_head: path of the layer of D, such as "trunk/last", whose input the
      monitor's probe reads. None uses the last layer that has a kernel.
  """
  latents, labels, images = _examples(spec)
  first_g, first_d = g, d  # `init` creates unsharded weights.
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
  """Returns G's `apply`; see `GanModel`."""

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
  """Returns the module with `gather` set, if its blocks gather weights."""
  return network.clone(gather=gather) if _gathers(network) else network


def _gathers(network: nn.Module) -> bool:
  return any(field.name == "gather" for field in dataclasses.fields(network))


def _gathered(
  network: nn.Module, gather: Gather | None, params: PyTree
) -> PyTree:
  """Returns the parameters in the form that the module expects."""
  if gather is None or _gathers(network):
    return gather_rest(gather, params)
  return gather(params)


def _examples(spec: ModelBase) -> tuple[Array, Array, Array]:
  """Returns zero latents, labels and images with a batch size of 1."""
  image = (1, spec.resolution, spec.resolution, spec.image_channels)
  return (
    jnp.zeros((1, spec.latent_dim), spec.dtype),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(image, spec.dtype),
  )


def _with_features(
  apply: Callable[[Variables, Array, Array], Array], head: str | None
) -> Callable[[Variables, Array, Array], tuple[Array, Array]]:
  """Returns `apply_d` that also returns the input of the last layer, [B, F]."""

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
      "the monitor's probe reads the input of D's last layer, but found "
      + ("no layer with a kernel in D" if head is None else f"no {head!r}")
      + "; set d_head of bigscale.models.networks.gan_model to a layer's path",
    )
    x = seen[-1]
    if x.ndim > 2:  # A feature map or tokens.
      x = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    return logits, x

  return features


def _has_kernel(params: PyTree, path: Sequence[str]) -> bool:
  """Returns whether the module at a path has a kernel."""
  for name in path:
    if not isinstance(params, Mapping) or name not in params:
      return False
    params = params[name]
  return isinstance(params, Mapping) and "kernel" in params


def _half(init: Callable[[Array], Variables], spec: ModelBase) -> Select:
  """Selects the kernels of convolutions whose input is bfloat16."""

  @functools.cache
  def kernels() -> frozenset[str]:
    """Finds the kernels by tracing, so no table has to be maintained."""
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
      # A new function each time, because JAX caches traces and would skip
      # `watch`.
      jax.eval_shape(lambda: init(jax.random.key(0)))
    return frozenset(found)

  return (lambda path: path in kernels()) if spec.bf16_stages else never


def _tracked(spectral: Select) -> Select:
  """Selects all kernels and all parameters with spectral norm."""
  return lambda path: is_kernel(path) or spectral(path)
