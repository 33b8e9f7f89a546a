"""Selects variables of the official TF-Hub generators by their short names."""

import re

import numpy as np

from bigscale.interop.tensors import Tensors, TensorsError

_AVERAGE = re.compile(r"(.*)/ema_[\w.]+")
# Variables that have an average if the file contains averages.
_AVERAGED = ("w", "b", "gamma", "beta", "scale", "offset")
_STACK = re.compile(r"(?:.*/)?stack_(\d+)")
_STACKS_A_NORM, _MEANS, _VARIANCES = 5, 1, 3
_TRUNCATIONS = 51


def scope(name: str, number: int) -> str:
  """Numbers a repeated TensorFlow scope; the first has no number."""
  return f"{name}_{number}" if number else name


def number_of_blocks(named: Tensors) -> int:
  """Returns the number of G's blocks."""
  found = {name.split("/")[1] for name in named if "/GBlock" in name}
  return len(found)


def canonical(tensors: Tensors) -> dict[str, np.ndarray]:
  """Selects one version of each variable, under its shortest name.

  All variables except weights are vectors, so axes of length one are removed.
  `u0` is reshaped to [1, O].
  """
  named = plain_names(tensors)
  averages = {
    match[1]: named[name]
    for name in named
    if (match := _AVERAGE.fullmatch(name))
  }
  raw = {
    name: x
    for name, x in named.items()
    if not _AVERAGE.fullmatch(name)
    and not (averages and name.rpartition("/")[2] in _AVERAGED)
  }
  chosen = _unstacked(raw | averages)
  shapes = {"w": None, "u0": (1, -1)}
  return {
    name: x.reshape(shapes.get(name.rpartition("/")[2], -1) or x.shape)
    for name, x in chosen.items()
  }


def plain_names(tensors: Tensors) -> dict[str, np.ndarray]:
  """Removes "module/" and ":0" from the names."""
  return {
    name.removeprefix("module/").removesuffix(":0"): np.asarray(x)
    for name, x in tensors.items()
  }


def _unstacked(named: Tensors) -> dict[str, np.ndarray]:
  """Adds BigGAN-deep's statistics of truncation 1 under BigGAN's names."""
  last = {name: rows[-1] for name, rows in stacked(named).items()}
  others = {name: x for name, x in named.items() if not _STACK.fullmatch(name)}
  return others | last


def stacked(named: Tensors) -> dict[str, np.ndarray]:
  """Returns BigGAN-deep's statistics by BigGAN's names, [51, C] each."""
  stacks = {
    int(match[1]): name for name in named if (match := _STACK.fullmatch(name))
  }
  if not stacks:
    return {}
  found = {}
  norms = [
    f"Generator/{scope('GBlock', block)}/{scope('BatchNorm', norm)}"
    for block in range(number_of_blocks(named))
    for norm in range(4)
  ]
  for i, norm in enumerate([*norms, "Generator/BatchNorm"]):
    for place, which in ((_MEANS, "mean"), (_VARIANCES, "var")):
      name = stacks.get(_STACKS_A_NORM * i + place)
      if name is None:
        continue
      rows = named[name]
      if len(rows) != _TRUNCATIONS:
        raise TensorsError(
          f"{name} {rows.shape} must contain the statistics of {_TRUNCATIONS} "
          "truncations; use the official file"
        )
      found[f"{norm}/accumulated_{which}"] = rows.reshape(_TRUNCATIONS, -1)
  return found
