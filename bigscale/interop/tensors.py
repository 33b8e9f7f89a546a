"""Converts named tensors of another implementation to a bigscale network.

A layout module (`r3gan`, `biggan_pytorch`) maps each leaf of a bigscale network
to the tensor's name in the file and to its axis order. This module looks up the
tensors, collects all problems into one error, and transposes the axes. It
consists of pure functions on dictionaries of numpy arrays; `files` reads files.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bigscale.ops import spectral
from bigscale.ops.spectral import Spectra, Spectrum, flatten, unflatten
from bigscale.spec import ModelBase, SpecError, TruncationRule
from bigscale.types import Array, Network, PyTree, Variables

Tensors = Mapping[str, np.ndarray]


class TensorsError(SpecError):
  """Tensors that do not match the model's spec."""


class Layout(NamedTuple):
  """Conversion between a tensor's axis order in the file and in bigscale.

  Attributes:
    from_file: function from the file's array to bigscale's.
    to_file: inverse of `from_file`.
  """

  from_file: Callable[[np.ndarray], np.ndarray]
  to_file: Callable[[np.ndarray], np.ndarray]


class TensorSource(NamedTuple):
  """The tensor that a leaf is read from.

  Attributes:
    name: name of the tensor in the file.
    layout: conversion of its axes.
  """

  name: str
  layout: Layout


class ConvertedWeights(NamedTuple):
  """One network as numpy arrays, in the structure of `train.state`.

  Attributes:
    params: raw weights, before spectral norm.
    batch_stats: running statistics, {} without batch norm.
    spectra: power iterations, {} without spectral norm.
  """

  params: PyTree
  batch_stats: PyTree
  spectra: Spectra


class Shapes(NamedTuple):
  """Shapes and dtypes of a bigscale network, by path.

  Attributes:
    params: shapes of the weights.
    batch_stats: shapes of the running statistics.
    spectra: shapes of the power iterations of spectral norm.
  """

  params: Mapping[str, jax.ShapeDtypeStruct]
  batch_stats: Mapping[str, jax.ShapeDtypeStruct]
  spectra: Mapping[str, Spectrum]

  @property
  def leaves(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of weights and statistics."""
    return {**self.params, **self.batch_stats}

  def assemble(
    self, leaves: Mapping[str, np.ndarray], spectra: Spectra
  ) -> ConvertedWeights:
    """Builds the trees of a network from leaves by path."""
    return ConvertedWeights(
      unflatten({path: leaves[path] for path in self.params}),
      unflatten({path: leaves[path] for path in self.batch_stats}),
      spectra,
    )


class Format(NamedTuple):
  """A format of weights, as one module reads it; the module's `FORMAT`.

  Attributes:
    generator: function from a spec and G's tensors to G.
    infer_spec: function from G's tensors and D's, or None, to the spec of the
      model; that of a format's first module handles all of its models.
    names: pattern of typical tensor names, for messages; "" does not check
      whose tensors they are.
    signatures: regular expressions by player, "G" or "D": names of tensors that
      only this format's player has. G's is checked first.
    discriminator: function from a spec and D's tensors to D; None for formats
      without D.
    standing: function from a spec and G's tensors to the batch norm statistics
      of all truncations, or to None; None for formats without them.
    truncation_rule: meaning of truncation in the authors' code, if it has any.
  """

  generator: Callable[[Any, Tensors], ConvertedWeights]
  infer_spec: Callable[[Tensors, Tensors | None], ModelBase]
  names: str = ""
  signatures: Mapping[str, str] = {}
  discriminator: Callable[[Any, Tensors], ConvertedWeights] | None = None
  standing: Callable[[Any, Tensors], dict[str, np.ndarray] | None] | None = None
  truncation_rule: TruncationRule | None = None


def shapes_of(network: Network, spec: ModelBase) -> Shapes:
  """Returns the shapes of one network of `spec` without computing it."""

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
  """Returns a layout whose bigscale axis i is the file's axis `axes[i]`."""
  inverse = tuple(int(axis) for axis in np.argsort(axes))
  return Layout(
    lambda x: np.transpose(x, axes), lambda x: np.transpose(x, inverse)
  )


SAME = Layout(lambda x: x, lambda x: x)
# The file's tensor has an extra leading axis of length one.
FIRST = Layout(lambda x: x[0], lambda x: x[None])
# PyTorch's (out, in) and OIHW to (in, out) and HWIO.
DENSE = permutation(1, 0)
CONV = permutation(2, 3, 1, 0)


def sizes(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...]:
  """Returns the shape of a tensor that determines a model's sizes.

  Raises:
    TensorsError: the tensor is missing or has another number of axes.
  """
  if name not in tensors:
    raise TensorsError(
      f"{name} is missing, but the model's sizes are inferred from it; use a "
      "complete file of this format, or another --format"
    )
  shape = tensors[name].shape
  if len(shape) != ndim:
    raise TensorsError(
      f"{name} has shape {shape} but must have {ndim} axes, because the "
      "model's sizes are inferred from it; use a file in the format that "
      "--format names, or another --format"
    )
  return shape


def fetch(
  tensors: Tensors,
  sources: Mapping[str, TensorSource],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  ignored: Collection[str] = (),
) -> dict[str, np.ndarray]:
  """Reads a network's leaves from a state dict.

  Args:
    tensors: tensors by name, any float dtype.
    sources: tensor of every leaf, by path.
    shapes: shapes of the leaves, by path.
    ignored: names of optional tensors that are not read.

  Returns:
    Leaves by path, in the dtypes of `shapes`.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
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
        f"misshaped {source.name} {tensors[source.name].shape}, the spec "
        f"requires {expected}"
      )
  raise_if_any(problems)
  return {
    path: np.array(
      source.layout.from_file(tensors[source.name]),
      shapes[path].dtype,
      order="C",
    )
    for path, source in sources.items()
  }


def raise_if_any(problems: Iterable[str]) -> None:
  """Raises `TensorsError` with the problems, if there are any."""
  lines = list(problems)
  if lines:
    raise TensorsError(
      f"{len(lines)} tensors do not match the model's spec:\n  "
      + "\n  ".join(lines)
      + "\nUse the spec these weights were trained with, or a complete file."
    )


def _their_shape(layout: Layout, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the file's shape of a leaf, without allocating an array."""
  return layout.to_file(np.broadcast_to(np.zeros(()), shape)).shape
