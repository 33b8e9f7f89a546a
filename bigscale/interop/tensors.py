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

from bigscale.ops.spectral import Spectra
from bigscale.spec import SpecError
from bigscale.types import PyTree

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


class Source(NamedTuple):
  """Where a leaf of ours comes from.

  Attributes:
    name: of their tensor.
    layout: of its axes.
  """

  name: str
  layout: Layout


class Weights(NamedTuple):
  """One network, as numpy arrays: what `train.state` keeps of it.

  Attributes:
    params: raw weights, before spectral norm.
    batch_stats: running statistics, {} without batch norm.
    spectra: power iterations, {} without spectral norm.
  """

  params: PyTree
  batch_stats: PyTree
  spectra: Spectra


def permutation(*axes: int) -> Layout:
  """Our axis i is their axis `axes[i]`."""
  inverse = tuple(int(axis) for axis in np.argsort(axes))
  return Layout(
    lambda x: np.transpose(x, axes), lambda x: np.transpose(x, inverse)
  )


SAME = Layout(lambda x: x, lambda x: x)
# PyTorch's (out, in) and OIHW to ours.
DENSE = permutation(1, 0)
CONV = permutation(2, 3, 1, 0)


def fetch(
  tensors: Tensors,
  sources: Mapping[str, Source],
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
