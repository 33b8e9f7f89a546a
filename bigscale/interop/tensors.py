"""Named tensors of another implementation, arranged as a network of ours.

A layout module (`r3gan`, `biggan_pytorch`) says under which name each of our
leaves is stored there, and how its axes lie. Here the tensors are fetched, all
problems are collected into one error, and the axes are turned. Pure functions
on dictionaries of numpy arrays: reading files is somebody else's work.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from bigscale.ops import spectral
from bigscale.ops.spectral import Spectra, Spectrum, flatten, unflatten
from bigscale.spec import ModelBase, SpecError
from bigscale.types import Array, Network, PyTree, Variables

Tensors = Mapping[str, np.ndarray]


class TensorsError(SpecError):
  """A file that does not hold the weights its spec asks for."""


class Layout(NamedTuple):
  """How the axes of a tensor lie in the two implementations.

  Attributes:
    ours: from their array to ours.
    theirs: back.
  """

  ours: Callable[[np.ndarray], np.ndarray]
  theirs: Callable[[np.ndarray], np.ndarray]


class TensorSource(NamedTuple):
  """Where a leaf of ours comes from.

  Attributes:
    name: of their tensor.
    layout: of its axes.
  """

  name: str
  layout: Layout


class ConvertedWeights(NamedTuple):
  """One network, as numpy arrays: what `train.state` keeps of it.

  Attributes:
    params: raw weights, before spectral norm.
    batch_stats: running statistics, {} without batch norm.
    spectra: power iterations, {} without spectral norm.
  """

  params: PyTree
  batch_stats: PyTree
  spectra: Spectra


class Shapes(NamedTuple):
  """What a network of ours holds: shapes and dtypes, by path.

  Attributes:
    params: of the weights.
    batch_stats: of the running statistics.
    spectra: of the power iterations that normalize.
  """

  params: Mapping[str, jax.ShapeDtypeStruct]
  batch_stats: Mapping[str, jax.ShapeDtypeStruct]
  spectra: Mapping[str, Spectrum]

  @property
  def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Weights and statistics."""
    return {**self.params, **self.batch_stats}

  def assemble(
    self, leaves: Mapping[str, np.ndarray], spectra: Spectra
  ) -> ConvertedWeights:
    """Weights and statistics by path, as the trees that training keeps."""
    return ConvertedWeights(
      unflatten({path: leaves[path] for path in self.params}),
      unflatten({path: leaves[path] for path in self.batch_stats}),
      spectra,
    )


def shapes_of(network: Network, spec: ModelBase) -> Shapes:
  """Those of one of the two networks of `spec`; computes nothing."""

  def init(key: Array) -> tuple[Variables, Spectra]:
    variables = network.init(key)
    return variables, spectral.init(
      key, variables["params"], network.spectral, spec.num_singular_values
    )

  variables, spectra = jax.eval_shape(init, jax.random.key(0))
  return Shapes(
    flatten(variables["params"]), flatten(variables["batch_stats"]), spectra
  )


def permutation(*axes: int) -> Layout:
  """Our axis i is their axis `axes[i]`."""
  inverse = tuple(int(axis) for axis in np.argsort(axes))
  return Layout(
    lambda x: np.transpose(x, axes), lambda x: np.transpose(x, inverse)
  )


SAME = Layout(lambda x: x, lambda x: x)
# What stands there in a leading axis of length one.
FIRST = Layout(lambda x: x[0], lambda x: x[None])
# PyTorch's (out, in) and OIHW to ours.
DENSE = permutation(1, 0)
CONV = permutation(2, 3, 1, 0)


def sizes(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...]:
  """The shape of a tensor that a model's sizes are read off.

  Raises:
    TensorsError: it is not there, or has another number of axes.
  """
  if name not in tensors:
    raise TensorsError(
      f"{name} is missing, and the model's sizes are read off it; choose a "
      "whole file of this kind, or another --format"
    )
  shape = tensors[name].shape
  if len(shape) != ndim:
    raise TensorsError(
      f"{name} {shape} must have {ndim} axes, for the model's sizes are read "
      "off it; choose a file of this kind, or another --format"
    )
  return shape


def fetch(
  tensors: Tensors,
  sources: Mapping[str, TensorSource],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  ignored: Collection[str] = (),
) -> dict[str, np.ndarray]:
  """Takes a network's tensors out of a state dict.

  Args:
    tensors: by their names, any float dtype.
    sources: for every leaf of ours, by path.
    shapes: of our leaves, by path.
    ignored: their names that may be there and are not read.

  Returns:
    Our leaves by path, in the dtypes of `shapes`.

  Raises:
    TensorsError: names every missing, extra and misshaped tensor.
  """
  wanted = {source.name for source in sources.values()}
  problems = [
    f"missing {source.name} {_their_shape(source.layout, shapes[path].shape)}"
    for path, source in sources.items()
    if source.name not in tensors
  ]
  problems += [
    f"extra {name} {tensors[name].shape}"
    for name in sorted(set(tensors) - wanted - set(ignored))
  ]
  for path, source in sources.items():
    expected = _their_shape(source.layout, shapes[path].shape)
    if source.name in tensors and tensors[source.name].shape != expected:
      problems.append(
        f"misshaped {source.name} {tensors[source.name].shape}, the spec asks "
        f"for {expected}"
      )
  raise_if_any(problems)
  return {
    path: np.array(
      source.layout.ours(tensors[source.name]), shapes[path].dtype, order="C"
    )
    for path, source in sources.items()
  }


def raise_if_any(problems: Iterable[str]) -> None:
  """Raises `TensorsError` listing the problems, if there are any."""
  lines = list(problems)
  if lines:
    raise TensorsError(
      f"{len(lines)} tensors do not fit the model's spec:\n  "
      + "\n  ".join(lines)
      + "\nChoose the spec these weights were trained with, or a whole file."
    )


def _their_shape(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Of their tensor, from ours; the array behind it takes one element."""
  return layout.theirs(np.broadcast_to(np.zeros(()), shape)).shape
