"""Counts the products and parameters of a model's networks by tracing them.

The forward pass is traced on shapes, with every layer in its plain form: the
form of `gpu`, without grouped convolutions made dense and without rewritten
convolutions next to upsampling or downsampling. Nothing is compiled and no
array is allocated. These are the networks that train, so families of models
need no separate description of their layers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigscale.models.make import make_model
from bigscale.ops.power import output_axis
from bigscale.ops.spectral import flatten
from bigscale.scaling.jaxpr_flops import LEARNED, SAMPLE, Product, count
from bigscale.spec import ModelBase
from bigscale.types import Network, PyTree

_PLAIN = "gpu"


class Matrix(NamedTuple):
  """A parameter array of two or more axes, viewed as a matrix [rows, out].

  Attributes:
    path: path in the parameter tree, such as "block0/conv1/kernel".
    rows: number of inputs per output.
    out: size of the output axis.
  """

  path: str
  rows: int
  out: int

  @property
  def size(self) -> int:
    """Number of entries."""
    return self.rows * self.out


class Traced(NamedTuple):
  """A traced network.

  Attributes:
    network: the network as pure functions.
    products: products of one sample's forward pass, in program order.
    elementwise: number of other operations of that pass.
    parameters: number of parameters.
    matrices: parameter arrays of two or more axes.
  """

  network: Network
  products: tuple[Product, ...]
  elementwise: float
  parameters: int
  matrices: tuple[Matrix, ...]


class Networks(NamedTuple):
  """The traced networks of both players."""

  g: Traced
  d: Traced


class Parameters(NamedTuple):
  """Number of parameters of G and D."""

  g: int
  d: int

  @property
  def total(self) -> int:
    """Number of parameters of both networks."""
    return self.g + self.d


@functools.lru_cache(maxsize=256)
def networks(model: ModelBase) -> Networks:
  """Traces a model's networks.

  Raises:
    UnknownCostError: a network contains operations that cannot be counted.
  """
  made = make_model(model, _PLAIN)
  # A batch norm group needs this many samples. Counts are divided by it.
  batch = max(model.batch_norm_group_size, 1)
  dtype = jnp.dtype(model.dtype)
  side, channels = model.resolution, model.image_channels
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  latents = jax.ShapeDtypeStruct((batch, model.latent_dim), dtype)
  images = jax.ShapeDtypeStruct((batch, side, side, channels), dtype)
  return Networks(
    _trace(made.g, (latents, labels), train=True),
    _trace(made.d, (images, labels)),
  )


@functools.lru_cache(maxsize=256)
def parameters(model: ModelBase) -> Parameters:
  """Returns the parameters of G and D, without running statistics."""
  made = make_model(model, _PLAIN)
  return Parameters(*(_size(_shapes(net)["params"]) for net in made))


def _trace(
  network: Network,
  inputs: tuple[jax.ShapeDtypeStruct, ...],
  **options: bool,
) -> Traced:
  variables = _shapes(network)
  program = jax.make_jaxpr(
    lambda variables, *inputs: network.apply(variables, *inputs, **options)
  )(variables, *inputs)
  parameters, state = (
    len(jax.tree.leaves(variables[name])) for name in ("params", "batch_stats")
  )
  # Flat tree order: "batch_stats" sorts before "params", and the inputs follow.
  kinds = [0] * state + [LEARNED] * parameters + [SAMPLE] * len(inputs)
  batch = inputs[0].shape[0]
  counted = count(program, kinds)
  arrays = flatten(variables["params"])
  return Traced(
    network,
    tuple(p._replace(count=p.count / batch) for p in counted.products),
    counted.elementwise / batch,
    _size(variables["params"]),
    tuple(
      Matrix(path, array.size // out, out)
      for path, array in arrays.items()
      if array.ndim >= 2
      for out in [array.shape[output_axis(path)]]
    ),
  )


def _shapes(network: Network) -> dict[str, PyTree]:
  return jax.eval_shape(network.init, jax.random.key(0))


def _size(tree: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))
