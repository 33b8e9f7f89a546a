"""What the state dicts of BigGAN and BigGAN-deep in PyTorch have in common.

The authors' code has trackers of singular values in the file: `u0`, `sv0` and,
where asked for, those of the lower ranks. A layer has no more of them than its
smaller side; theirs hold zeros and NaN beyond it, which are not read.
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

# From our paths to their names; the generators of both models agree.
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
  """Rows (C, 4, 4), then any axes, to rows (4, 4, C)."""
  return np.moveaxis(x.reshape(-1, 4, 4, *x.shape[1:]), 0, 2).reshape(x.shape)


def _to_first_map(x: np.ndarray) -> np.ndarray:
  return np.moveaxis(x.reshape(4, 4, -1, *x.shape[1:]), 2, 0).reshape(x.shape)


# G's first layer makes a map whose channels they keep outermost.
_FIRST_VECTOR = Layout(_from_first_map, _to_first_map)
_FIRST_DENSE = Layout(
  lambda x: _from_first_map(x).T, lambda x: _to_first_map(x.T)
)


def sources(
  shapes: Shapes, player: str, renames: Renames
) -> dict[str, TensorSource]:
  """Where our parameters and statistics lie in their file.

  Args:
    shapes: of our network.
    player: `g` or `d`.
    renames: patterns of our paths and what they are called there.
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
  """Their state dict as ours; arguments as for `sources`.

  Raises:
    TensorsError: names every missing, extra and misshaped tensor.
  """
  # PyTorch takes a scalar in an axis of length one, too, and conversions leave
  # attention's gain so.
  tensors = {
    name: x.reshape(()) if name.endswith(".gamma") and x.size == 1 else x
    for name, x in tensors.items()
  }
  found = sources(shapes, player, renames)
  tracked, tracker_shapes = _trackers(shapes, found, player)
  if not any(re.search(r"\.sv\d+$", name) for name in tensors):
    # Files made by conversion keep the vectors alone.
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
  """One more than the largest number that the pattern's group finds."""
  found = [re.fullmatch(pattern, name) for name in tensors]
  return 1 + max((int(match[1]) for match in found if match), default=-1)


def singular_values(tensors: Tensors) -> int:
  """How many ranks are tracked; 0 in a network without spectral norm."""
  return number_of(tensors, r"(?:output_layer\.2|blocks\.0\.0\.conv1)\.u(\d+)")


def attention_places(tensors: Tensors, pattern: str) -> list[int]:
  """Numbers of the blocks or stages with attention, rising.

  Args:
    tensors: of one network.
    pattern: of the gain's name, the number in a group.
  """
  found = [re.fullmatch(pattern, name) for name in tensors]
  return sorted(int(match[1]) for match in found if match)


def require_generator(tensors: Tensors) -> None:
  """Raises `TensorsError` unless names are those of one of the generators."""
  for name in ("linear.weight", "output_layer.2.weight"):
    if name not in tensors:
      raise TensorsError(
        f"{name} is missing, which every generator of BigGAN-PyTorch has; "
        "choose the file of such a generator, or another --format"
      )


def _their_name(path: str, renames: Renames) -> str:
  """From "block0/conv1/kernel" to "blocks.0.0.conv1.weight"."""
  owner, _, leaf = path.rpartition("/")
  # Gains, statistics and the like are leaves of their own there, too.
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
  """Sources and shapes of each rank's u and sigma, by made-up paths."""
  tracked, tracker_shapes = {}, {}
  for path, (u_ko, sigma_k) in shapes.spectra.items():
    owner = found[path].name.removesuffix("weight")
    is_first = player == "g" and path.startswith("linear/")
    vector = _FIRST_VECTOR if is_first else SAME
    row = Layout(
      lambda x, vector=vector: vector.ours(x[0]),
      lambda x, vector=vector: vector.theirs(x)[None],
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
  """Their trackers of ranks that we do not track."""
  owners = {found[path].name.removesuffix("weight") for path in shapes.spectra}
  return {
    name
    for name in tensors
    if re.search(r"(u|sv)\d+$", name)
    and re.sub(r"(u|sv)\d+$", "", name) in owners
  }
