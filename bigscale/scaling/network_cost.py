"""What a model's networks compute and hold, found by tracing them once.

One sample's forward pass is traced on shapes, in the plain form of every layer
(that of `gpu`: no grouped convolution made dense, none beside a doubling or
halving rewritten). Nothing is compiled and no array is made. A family of models
says nothing about its layers here, so that what is counted is what trains.
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
  """A learned array of two axes and more, as [rows, out].

  Attributes:
    path: of it in the parameters, "block0/conv1/kernel".
    rows: inputs of an output.
    out: entries along the output axis.
  """

  path: str
  rows: int
  out: int

  @property
  def size(self) -> int:
    """Entries."""
    return self.rows * self.out


class Traced(NamedTuple):
  """A network.

  Attributes:
    network: as pure functions.
    products: of one sample's forward pass, in its order.
    elementwise: other operations of it.
    parameters: learned numbers.
    matrices: of these, those in arrays of two axes and more.
  """

  network: Network
  products: tuple[Product, ...]
  elementwise: float
  parameters: int
  matrices: tuple[Matrix, ...]


class Networks(NamedTuple):
  """Both players."""

  g: Traced
  d: Traced


class Parameters(NamedTuple):
  """Learned numbers."""

  g: int
  d: int

  @property
  def total(self) -> int:
    """Of both networks."""
    return self.g + self.d


@functools.lru_cache(maxsize=256)
def networks(model: ModelBase) -> Networks:
  """Traces a model's networks.

  Raises:
    UnknownCostError: one of them hides what it computes.
  """
  made = make_model(model, _PLAIN)
  # As many samples as batch norm takes together; each is one of them.
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
  """Learned numbers of G and of D; running statistics are none."""
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
  # In the order of a flat tree: names of a dictionary sorted, then the inputs.
  made_of = [0] * state + [LEARNED] * parameters + [SAMPLE] * len(inputs)
  batch = inputs[0].shape[0]
  counted = count(program, made_of)
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
