"""Code shared by the PyTorch state dicts of BigGAN and BigGAN-deep.

The authors' files contain trackers of singular values: `u0`, `sv0` and, if
configured, those of lower ranks. A layer has no more singular values than its
smaller side. Beyond that, the files contain zeros and NaN, which are not read.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from bigscale.interop import spectra as iterations
from bigscale.interop.tensors import (
  CONV,
  DENSE,
  FIRST,
  SAME,
  ConvertedWeights,
  Layout,
  Shapes,
  Tensors,
  TensorsError,
  TensorSource,
  fetch,
)
from bigscale.ops.spectral import Spectrum, output_axis

Renames = Sequence[tuple[str, str]]

# Of the format, for `tensors.Format`.
NAMES = "blocks.*"
SIGNATURES = {
  "G": r"blocks\.\d+\.\d+\.bn\d\..+",
  "D": r"blocks\.\d+\.\d+\.conv\d\.weight",
}

# Pairs of a pattern of bigscale's paths and the authors' name, for the layers
# that G has in both BigGAN and BigGAN-deep.
COMMON: Renames = (
  (r"block(\d+)/norm(\d)/norm/(mean|var)", r"blocks.\1.0.bn\2.stored_\3"),
  (r"block(\d+)/norm(\d)/(gain|bias)", r"blocks.\1.0.bn\2.\3"),
  (r"block(\d+)/shortcut", r"blocks.\1.0.conv_sc"),
  (r"block(\d+)/(conv\d)", r"blocks.\1.0.\2"),
  (r"attention(\d+)/(theta|phi|g|o|gamma)", r"blocks.\1.1.\2"),
  (r"output_norm/norm/(mean|var)", r"output_layer.0.stored_\1"),
  (r"output_norm/(gain|bias)", r"output_layer.0.\1"),
  (r"to_rgb", r"output_layer.2"),
  (r"projection", r"embed"),
  (r"(shared|linear)", r"\1"),
)


def _from_first_map(x: np.ndarray) -> np.ndarray:
  """Reorders rows (C, 4, 4) to (4, 4, C); further axes stay in place."""
  return np.moveaxis(x.reshape(-1, 4, 4, *x.shape[1:]), 0, 2).reshape(x.shape)


def _to_first_map(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x.reshape(4, 4, -1, *x.shape[1:]), 2, 0).reshape(x.shape)


# G's first layer outputs a map in which the authors' channels are outermost.
_FIRST_VECTOR = Layout(_from_first_map, _to_first_map)
_FIRST_DENSE = Layout(
  lambda x: _from_first_map(x).T, lambda x: _to_first_map(x.T)
)


def sources(
  shapes: Shapes, player: str, renames: Renames
) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic.

  Args:
    shapes: shapes of the bigscale network.
    player: `g` or `d`.
    renames: patterns of bigscale's paths, and the names in the file.
  """
  return {
    path: TensorSource(
      _their_name(path, renames), _layout(path, leaf.ndim, player)
    )
    for path, leaf in shapes.leaves.items()
  }


def load(
  shapes: Shapes, player: str, renames: Renames, tensors: Tensors
) -> ConvertedWeights:
  """Converts a state dict; see `sources` for the arguments.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  # PyTorch accepts a scalar as an array of length one, and converted files
  # store attention's gain in that form.
  tensors = {
    name: x.reshape(()) if name.endswith(".gamma") and x.size == 1 else x
    for name, x in tensors.items()
  }
  found = sources(shapes, player, renames)
  tracked, tracker_shapes = _trackers(shapes, found, player)
  if not any(re.search(r"\.sv\d+$", name) for name in tensors):
    # Converted files contain only the vectors.
    tracked = {
      path: source
      for path, source in tracked.items()
      if not re.search(r"/sv\d+$", path)
    }
  leaves = fetch(
    tensors,
    found | tracked,
    shapes.leaves | tracker_shapes,
    ignored=_other_trackers(tensors, found, shapes),
  )
  return shapes.assemble(
    leaves,
    {
      path: _spectrum(leaves, path, len(s.sigma))
      for path, s in shapes.spectra.items()
    },
  )


def number_of(tensors: Iterable[str], pattern: str) -> int:
  """Returns one plus the largest integer that the pattern's group matches."""
  found = [re.fullmatch(pattern, name) for name in tensors]
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def singular_values(tensors: Tensors) -> int:
  """Returns the number of tracked ranks; 0 without spectral norm."""
  return number_of(tensors, r"(?:output_layer\.2|blocks\.0\.0\.conv1)\.u(\d+)")


def attention_indices(tensors: Tensors, pattern: str) -> list[int]:
  """Returns the indices of blocks or stages with attention, ascending.

  Args:
    tensors: tensors of one network.
    pattern: pattern of the gain's name, with the index in a group.
  """
  found = [re.fullmatch(pattern, name) for name in tensors]
  return sorted(int(match[1]) for match in found if match)


def require_generator(tensors: Tensors) -> None:
  """Raises `TensorsError` unless the names are those of a generator."""
  for name in ("linear.weight", "output_layer.2.weight"):
    if name not in tensors:
      raise TensorsError(
        f"{name} is missing, which every generator of BigGAN-PyTorch has; "
        "use the file of such a generator, or another --format"
      )


def _their_name(path: str, renames: Renames) -> str:
  """Maps "block0/conv1/kernel" to "blocks.0.0.conv1.weight"."""
  owner, _, leaf = path.rpartition("/")
  # Leaves such as gains and statistics are tensors of their own in the file.
  endings = {"kernel": ".weight", "embedding": ".weight", "bias": ".bias"}
  for name, ending in ((path, ""), (owner, endings.get(leaf, ""))):
    for pattern, replacement in renames:
      match = re.fullmatch(pattern, name)
      if match:
        return match.expand(replacement) + ending
  raise KeyError(path)


def _layout(path: str, ndim: int, player: str) -> Layout:
  is_first = player == "g" and path.startswith("linear/")
  if not path.endswith("kernel"):
    return _FIRST_VECTOR if is_first else SAME
  if is_first:
    return _FIRST_DENSE
  return CONV if ndim == 4 else DENSE


def _trackers(
  shapes: Shapes, found: Mapping[str, TensorSource], player: str
) -> tuple[dict[str, TensorSource], dict[str, jax.ShapeDtypeStruct]]:
  """Returns sources and shapes of each rank's u and sigma, by made-up path."""
  tracked, tracker_shapes = {}, {}
  for path, (u_ko, sigma_k) in shapes.spectra.items():
    owner = found[path].name.removesuffix("weight")
    is_first = player == "g" and path.startswith("linear/")
    vector = _FIRST_VECTOR if is_first else SAME
    row = Layout(
      lambda x, vector=vector: vector.from_file(x[0]),
      lambda x, vector=vector: vector.to_file(x)[None],
    )
    u = jax.ShapeDtypeStruct(u_ko.shape[1:], u_ko.dtype)
    for rank in range(sigma_k.shape[0]):
      tracked[f"{path}/u{rank}"] = TensorSource(f"{owner}u{rank}", row)
      tracked[f"{path}/sv{rank}"] = TensorSource(f"{owner}sv{rank}", FIRST)
      tracker_shapes[f"{path}/u{rank}"] = u
      tracker_shapes[f"{path}/sv{rank}"] = jax.ShapeDtypeStruct((), u.dtype)
  return tracked, tracker_shapes


def _spectrum(
  leaves: Mapping[str, np.ndarray], path: str, ranks: int
) -> Spectrum:
  u_ko = np.stack([leaves[f"{path}/u{i}"] for i in range(ranks)])
  if f"{path}/sv0" not in leaves:
    return iterations.stepped(leaves[path], u_ko, output_axis(path))
  return Spectrum(
    u_ko, np.stack([leaves[f"{path}/sv{i}"] for i in range(ranks)])
  )


def _other_trackers(
  tensors: Tensors, found: Mapping[str, TensorSource], shapes: Shapes
) -> set[str]:
  """Returns the names of trackers of ranks that bigscale does not track."""
  owners = {found[path].name.removesuffix("weight") for path in shapes.spectra}
  return {
    name
    for name in tensors
    if re.search(r"(u|sv)\d+$", name)
    and re.sub(r"(u|sv)\d+$", "", name) in owners
  }
