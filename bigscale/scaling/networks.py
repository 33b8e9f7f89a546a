"""The networks as lists of layers: shapes alone, without arrays or JAX.

Names and shapes are those of the parameter trees that `bigscale.models` makes
(a test compares them), so that what is counted here is what trains.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bigscale.scaling.biggan_layers import biggan_d, biggan_g, deep_d, deep_g
from bigscale.scaling.layers import Layer
from bigscale.scaling.r3gan_layers import (
  r3gan_d,
  r3gan_g,
  stripped_d,
  stripped_g,
)
from bigscale.spec import (
  BigganDeepSpec,
  BigganSpec,
  ModelSpec,
  R3ganSpec,
  StrippedSpec,
  require,
)

Table = Callable[[Any], Iterator[Layer]]

# A new model adds one line.
_TABLES: dict[type, tuple[Table, Table]] = {
  BigganSpec: (biggan_g, biggan_d),
  BigganDeepSpec: (deep_g, deep_d),
  R3ganSpec: (r3gan_g, r3gan_d),
  StrippedSpec: (stripped_g, stripped_d),
}


class Layers(NamedTuple):
  """Both networks, each in the order of its forward pass."""

  g: tuple[Layer, ...]
  d: tuple[Layer, ...]


class Parameters(NamedTuple):
  """Learned numbers."""

  g: int
  d: int

  @property
  def total(self) -> int:
    """Of both networks."""
    return self.g + self.d


def layers(model: ModelSpec) -> Layers:
  """Returns the layers of a model's networks.

  Raises:
    SpecError: nobody has described them.
  """
  kind = type(model)
  require(
    kind in _TABLES,
    f"{kind.__name__} has no description of its layers, from which FLOP are "
    "counted: add one of G and one of D to _TABLES of "
    "bigscale/scaling/networks.py",
  )
  g, d = _TABLES[kind]
  return Layers(tuple(g(model)), tuple(d(model)))


def parameters(model: ModelSpec) -> Parameters:
  """Learned numbers of G and of D; running statistics are none."""
  return Parameters(
    *(sum(layer.parameters for layer in net) for net in layers(model))
  )
