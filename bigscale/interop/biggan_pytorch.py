"""State dicts of BigGAN-PyTorch (the authors' code), as our networks.

Trackers of singular values come along: `u0`, `sv0` and, where the file has
them, those of the lower ranks. A layer has no more of them than its smaller
side; theirs hold zeros and NaN beyond it, which are not read.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from bigscale.interop.tensors import (
  CONV,
  DENSE,
  SAME,
  Layout,
  Source,
  Tensors,
  Weights,
  fetch,
)
from bigscale.models import biggan
from bigscale.ops import spectral
from bigscale.ops.spectral import Spectra, Spectrum, flatten, unflatten
from bigscale.spec import BigganSpec
from bigscale.types import Array, Network, Variables

_RENAMES = (
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


def generator(spec: BigganSpec, tensors: Tensors) -> Weights:
  """The authors' `Generator.state_dict()` as ours.

  Args:
    spec: the sizes the weights were trained with. A file may track more
      singular values than `num_singular_values` names.
    tensors: by the authors' names, in PyTorch's axis order.

  Raises:
    TensorsError: names every missing, extra and misshaped tensor.
  """
  return _weights(biggan.make(spec, "cpu").g, spec, tensors, "g")


def discriminator(spec: BigganSpec, tensors: Tensors) -> Weights:
  """The authors' `Discriminator.state_dict()` as ours; see `generator`."""
  return _weights(biggan.make(spec, "cpu").d, spec, tensors, "d")


def source(path: str, ndim: int, player: str) -> Source:
  """Where a parameter or a statistic of ours lies in their file.

  Args:
    path: of ours, "block0/conv1/kernel".
    ndim: its number of axes.
    player: `g` or `d`.
  """
  is_first = player == "g" and path.startswith("linear/")
  if path.endswith("kernel"):
    if is_first:
      layout = _FIRST_DENSE
    else:
      layout = CONV if ndim == 4 else DENSE
  else:
    layout = _FIRST_VECTOR if is_first else SAME
  return Source(their_name(path), layout)


def their_name(path: str) -> str:
  """From "block0/conv1/kernel" to "blocks.0.0.conv1.weight"."""
  owner, _, leaf = path.rpartition("/")
  # Gains, statistics and the like are leaves of their own there, too.
  endings = {"kernel": ".weight", "embedding": ".weight", "bias": ".bias"}
  for name, ending in ((path, ""), (owner, endings.get(leaf, ""))):
    for pattern, replacement in _RENAMES:
      match = re.fullmatch(pattern, name)
      if match:
        return match.expand(replacement) + ending
  raise KeyError(path)


def _weights(
  network: Network, spec: BigganSpec, tensors: Tensors, player: str
) -> Weights:
  def init(key: Array) -> tuple[Variables, Spectra]:
    variables = network.init(key)
    return variables, spectral.init(
      key, variables["params"], network.spectral, spec.num_singular_values
    )

  variables, spectra = jax.eval_shape(init, jax.random.key(0))
  params = flatten(variables["params"])
  stats = flatten(variables["batch_stats"])
  shapes = params | stats
  sources = {
    path: source(path, leaf.ndim, player) for path, leaf in shapes.items()
  }
  tracked, tracker_shapes = _trackers(spectra, player)
  leaves = fetch(
    tensors,
    sources | tracked,
    shapes | tracker_shapes,
    ignored=_other_trackers(tensors, sources, spectra),
  )
  return Weights(
    unflatten({path: leaves[path] for path in params}),
    unflatten({path: leaves[path] for path in stats}),
    {
      path: Spectrum(
        np.stack([leaves[f"{path}/u{i}"] for i in range(len(s.sigma))]),
        np.stack([leaves[f"{path}/sv{i}"] for i in range(len(s.sigma))]),
      )
      for path, s in spectra.items()
    },
  )


def _trackers(
  spectra: Mapping[str, Spectrum], player: str
) -> tuple[dict[str, Source], dict[str, jax.ShapeDtypeStruct]]:
  """Sources and shapes of each rank's u and sigma, by made-up paths."""
  sources, shapes = {}, {}
  for path, (u_ko, sigma_k) in spectra.items():
    owner = their_name(path).removesuffix("weight")
    is_first = player == "g" and path.startswith("linear/")
    vector = _FIRST_VECTOR if is_first else SAME
    row = Layout(
      lambda x, vector=vector: vector.ours(x[0]),
      lambda x, vector=vector: vector.theirs(x)[None],
    )
    scalar = Layout(lambda x: x[0], lambda x: x[None])
    for rank in range(sigma_k.shape[0]):
      sources[f"{path}/u{rank}"] = Source(f"{owner}u{rank}", row)
      sources[f"{path}/sv{rank}"] = Source(f"{owner}sv{rank}", scalar)
      shapes[f"{path}/u{rank}"] = jax.ShapeDtypeStruct(
        u_ko.shape[1:], u_ko.dtype
      )
      shapes[f"{path}/sv{rank}"] = jax.ShapeDtypeStruct((), sigma_k.dtype)
  return sources, shapes


def _other_trackers(
  tensors: Tensors,
  sources: Mapping[str, Source],
  spectra: Mapping[str, Spectrum],
) -> set[str]:
  """Their trackers of ranks that we do not track."""
  owners = {sources[path].name.removesuffix("weight") for path in spectra}
  return {
    name
    for name in tensors
    if re.search(r"(u|sv)\d+$", name)
    and re.sub(r"(u|sv)\d+$", "", name) in owners
  }
