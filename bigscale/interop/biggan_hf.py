"""Converts state dicts of Hugging Face's pytorch-pretrained-BigGAN.

These are the official BigGAN-deep generators in PyTorch.

- In evaluation, their spectral norm divides by u^T W v with the stored u and v
  and takes no step. bigscale's takes one, so it stores the vector whose next
  step finds u and v (`spectra.before`). Both then divide by the same number.
- Batch norm has statistics for 51 truncation values from 0 to 1. The last ones,
  for truncation 1, become the running statistics. `standing` returns all.
- The class embedding is a linear layer on one-hot labels, without spectral
  norm. Attention has its own entry in the list of layers.

Source: `model.py` and `convert_tf_to_pytorch.py` of that repository.
"""

import re
from collections.abc import Mapping

import jax
import numpy as np

from bigscale.interop import biggan_sizes, spectra
from bigscale.interop.tensors import (
  CONV,
  DENSE,
  FIRST,
  SAME,
  ConvertedWeights,
  Format,
  Layout,
  Shapes,
  Tensors,
  TensorsError,
  TensorSource,
  fetch,
  shapes_of,
  sizes,
)
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.biggan_deep import networks as biggan_deep
from bigscale.ops.spectral import Spectrum
from bigscale.spec import require

_TRUNCATIONS = 51
_OUTSIDE = {
  "shared/embedding": "embeddings.weight",
  "linear/kernel": "generator.gen_z.weight_orig",
  "linear/bias": "generator.gen_z.bias",
  "output_norm/gain": "generator.bn.weight",
  "output_norm/bias": "generator.bn.bias",
  "output_norm/norm/mean": "generator.bn.running_means",
  "output_norm/norm/var": "generator.bn.running_vars",
  "to_rgb/kernel": "generator.conv_to_rgb.weight_orig",
  "to_rgb/bias": "generator.conv_to_rgb.bias",
}
_ATTENTION = {
  "theta/kernel": "snconv1x1_theta.weight_orig",
  "phi/kernel": "snconv1x1_phi.weight_orig",
  "g/kernel": "snconv1x1_g.weight_orig",
  "o/kernel": "snconv1x1_o_conv.weight_orig",
  "gamma": "gamma",
}
_NORM = {
  "gain/kernel": "scale.weight_orig",
  "bias/kernel": "offset.weight_orig",
  "norm/mean": "running_means",
  "norm/var": "running_vars",
}
_CONV = {"kernel": "weight_orig", "bias": "bias"}
_LAST_OF_MANY = Layout(
  lambda x: x[-1], lambda x: np.broadcast_to(x, (_TRUNCATIONS, *x.shape))
)


def generator(spec: BigganDeepSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts a `BigGAN.state_dict()`.

  Args:
    spec: spec with the sizes of the weights, see `infer_spec`.
    tensors: tensors by their original names, in PyTorch's axis order.

  Raises:
    SpecError: the original code has no such model.
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  _check(spec)
  shapes = shapes_of(biggan_deep.make(spec, "cpu").g, spec)
  found = _sources(spec, shapes)
  vectors = {
    f"{path}/{which}": TensorSource(f"{found[path].name[:-5]}_{which}", SAME)
    for path in shapes.spectra
    for which in "uv"
  }
  leaves = fetch(
    tensors,
    found | vectors,
    shapes.leaves | _vector_shapes(shapes),
  )
  return shapes.assemble(
    leaves,
    {path: _spectrum(leaves, path, found[path]) for path in shapes.spectra},
  )


def g_sources(spec: BigganDeepSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of G."""
  return _sources(spec, shapes_of(biggan_deep.make(spec, "cpu").g, spec))


def _sources(spec: BigganDeepSpec, shapes: Shapes) -> dict[str, TensorSource]:
  return {
    path: TensorSource(_name(path, spec), _layout(path, leaf.ndim))
    for path, leaf in shapes.leaves.items()
  }


def standing(spec: BigganDeepSpec, tensors: Tensors) -> dict[str, np.ndarray]:
  """Returns the statistics of all truncations, [51, C] by path.

  Args:
    spec: spec with the sizes of the weights.
    tensors: tensors that `generator` accepts.
  """
  shapes = shapes_of(biggan_deep.make(spec, "cpu").g, spec)
  found = _sources(spec, shapes)
  return {
    path: np.array(tensors[found[path].name], leaf.dtype)
    for path, leaf in shapes.batch_stats.items()
  }


def infer_spec(
  g_tensors: Tensors, d_tensors: Tensors | None = None
) -> BigganDeepSpec:
  """Infers the model from the names and shapes of its tensors.

  D was not published. It is assumed to have G's width, and attention where the
  paper has it.

  Args:
    g_tensors: a `BigGAN.state_dict()`.
    d_tensors: tensors of the discriminator, not used.

  Raises:
    TensorsError: the tensors do not match such a model.
  """
  del d_tensors
  shared, classes = sizes(g_tensors, "embeddings.weight", 2)
  seen = sizes(g_tensors, "generator.gen_z.weight_orig", 2)[1]
  blocks, before_attention = _layers(g_tensors)
  outputs = [
    sizes(g_tensors, f"generator.layers.{i}.conv_3.weight_orig", 4)[0]
    for i in blocks
  ]
  resolution, width, depth = biggan_sizes.of_deep_generator(outputs)
  for count in before_attention:
    if count % depth or not count:
      raise TensorsError(
        f"attention after {count} blocks is inside a stage of {depth} "
        "blocks, but bigscale supports it only after a stage"
      )
  return BigganDeepSpec(
    resolution=resolution,
    num_classes=classes,
    latent_dim=seen - shared,
    shared_dim=shared,
    g_width=width,
    d_width=width,
    g_depth=depth,
    g_attention=tuple(4 * 2 ** (n // depth) for n in before_attention),
    d_attention=(64,) if resolution > 64 else (),
    layout="tfhub",
    batch_norm_epsilon=1e-4,
    spectral_epsilon=1e-4,
    num_singular_values=1,
  )


def _layers(tensors: Tensors) -> tuple[list[int], list[int]]:
  """Returns the blocks' layers, and the block count before each attention."""
  numbers = {
    int(match[1]): name.endswith(".gamma")
    for name in tensors
    if (
      match := re.fullmatch(
        r"generator\.layers\.(\d+)\.(?:gamma|conv_3\.weight_orig)", name
      )
    )
  }
  blocks = sorted(i for i, is_attention in numbers.items() if not is_attention)
  attention = sorted(i for i, is_attention in numbers.items() if is_attention)
  return blocks, [sum(block < place for block in blocks) for place in attention]


def _check(spec: BigganDeepSpec) -> None:
  require(
    spec.layout == "tfhub" and spec.num_classes > 0,
    f"model.layout={spec.layout!r} and model.num_classes={spec.num_classes} "
    "must be 'tfhub' and positive, as in all weights of this format",
  )
  require(
    spec.num_singular_values == 1,
    f"model.num_singular_values={spec.num_singular_values} must be 1, because "
    "this format stores one singular vector per layer",
  )


def _name(path: str, spec: BigganDeepSpec) -> str:
  """Maps "block0/conv1/kernel" to "generator.layers.0.conv_0.weight_orig"."""
  match = re.fullmatch(r"(block|attention)(\d+)/(.+)", path)
  if not match:
    return _OUTSIDE[path]
  kind, block, rest = match[1], int(match[2]), match[3]
  # Blocks that are followed by attention, which is a layer of its own.
  attended = [
    (side.bit_length() - 3) * spec.g_depth - 1 for side in spec.g_attention
  ]
  layer = block + sum(last < block for last in attended)
  if kind == "attention":
    return f"generator.layers.{layer + 1}.{_ATTENTION[rest]}"
  part, number, leaf = re.fullmatch(r"(conv|norm)(\d)/(.+)", rest).groups()
  owner = {"conv": "conv", "norm": "bn"}[part]
  inside = (_CONV if part == "conv" else _NORM)[leaf]
  return f"generator.layers.{layer}.{owner}_{int(number) - 1}.{inside}"


def _layout(path: str, ndim: int) -> Layout:
  if path.endswith(("norm/mean", "norm/var")):
    return _LAST_OF_MANY
  if path.endswith("/gamma"):
    return FIRST
  if ndim == 4:
    return CONV
  # Includes the embedding, whose columns are bigscale's rows.
  return DENSE if ndim == 2 else SAME


def _spectrum(
  leaves: Mapping[str, np.ndarray], path: str, source: TensorSource
) -> Spectrum:
  w_oi = source.layout.to_file(leaves[path])
  w_oi = w_oi.reshape(len(w_oi), -1)
  u, v = leaves[f"{path}/u"], leaves[f"{path}/v"]
  return Spectrum(
    spectra.before(w_oi, v)[None], np.array([u @ w_oi @ v], u.dtype)
  )


def _vector_shapes(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of u and v under temporary paths."""
  found = {}
  for path, (u_ko, _) in shapes.spectra.items():
    weight = shapes.params[path]
    others = weight.size // u_ko.shape[1]
    for which, length in (("u", u_ko.shape[1]), ("v", others)):
      found[f"{path}/{which}"] = jax.ShapeDtypeStruct((length,), u_ko.dtype)
  return found


FORMAT = Format(
  generator,
  infer_spec,
  "generator.layers.*",
  {"G": r"generator\.layers\..+"},
  standing=standing,
  truncation_rule="scale",
)
