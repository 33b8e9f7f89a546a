"""Converts variables of the official TF-Hub generators, BigGAN and BigGAN-deep.

Names are those of the graph, with or without a leading "module/" and a trailing
":0". Axes have the same order as in bigscale.

- Weights, biases and gains exist in a raw and an averaged version
  (`w/ema_b999900`, `w/ema_0.9999`). Averages are used if the file has them.
- `u0` is stored as in training. As in bigscale, the graph takes one step of the
  power iteration from it and divides by the result.
- BigGAN's condition is [z_i, y] and bigscale's is [y, z_i], so rows are
  swapped. BigGAN-deep's is that of `layout="tfhub"`.
- Running statistics of batch norm are those of truncation 1. BigGAN stores them
  as `accumulated_mean` and `accumulated_var`, which are already means,
  regardless of their counter. BigGAN-deep stores those of 51 truncations from 0
  to 1 as graph constants [51, C]. Every batch norm has five `stack_N`, the
  second with means and the fourth with variances. `standing` returns them all.

Sources: TFHub/converter.py of BigGAN-PyTorch and its issue 14 (the converted
weights reproduce the module's images at truncation 1); convert_tf_to_pytorch.py
of pytorch-pretrained-BigGAN.
"""

import re

import numpy as np

from bigscale.interop import biggan_sizes, spectra, tfhub_variables
from bigscale.interop.tensors import (
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
  raise_if_any,
  shapes_of,
  sizes,
)
from bigscale.interop.tfhub_variables import scope
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan.spec import G_WIDTHS
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.models.make import make_model
from bigscale.ops.spectral import output_axis
from bigscale.spec import require

_OUTSIDE = {
  "shared/embedding": "linear/w",
  "to_rgb/kernel": "Generator/conv_2d/w",
  "to_rgb/bias": "Generator/conv_2d/b",
  "linear/kernel": "Generator/G_Z/G_linear/w",
  "linear/bias": "Generator/G_Z/G_linear/b",
  "output_norm/gain": "Generator/ScaledCrossReplicaBN/gamma",
  "output_norm/bias": "Generator/ScaledCrossReplicaBN/beta",
  "output_norm/norm/mean": "Generator/ScaledCrossReplicaBNbn/accumulated_mean",
  "output_norm/norm/var": "Generator/ScaledCrossReplicaBNbn/accumulated_var",
}
_DEEP_OUTSIDE = {
  "shared/embedding": "linear/w",
  "to_rgb/kernel": "Generator/conv_to_rgb/w",
  "to_rgb/bias": "Generator/conv_to_rgb/b",
  "linear/kernel": "Generator/GenZ/G_linear/w",
  "linear/bias": "Generator/GenZ/G_linear/b",
  "output_norm/gain": "Generator/BatchNorm/scale",
  "output_norm/bias": "Generator/BatchNorm/offset",
  "output_norm/norm/mean": "Generator/BatchNorm/accumulated_mean",
  "output_norm/norm/var": "Generator/BatchNorm/accumulated_var",
}
_ATTENTION = {
  "theta/kernel": "theta/w",
  "phi/kernel": "phi/w",
  "g/kernel": "g/w",
  "o/kernel": "o_conv/w",
  "gamma": "gamma",
}
_CONVS = {"conv1": "conv0", "conv2": "conv1", "shortcut": "conv_sc"}
_LEAVES = {"kernel": "w", "bias": "b"}
_UNREAD = re.compile(r"(.*/)?(u[1-9]|accumulation_counter|global_step)")


def generator(
  spec: BigganSpec | BigganDeepSpec, tensors: Tensors
) -> ConvertedWeights:
  """Converts the variables of an official generator.

  Args:
    spec: spec with the sizes of the weights, see `infer_spec`.
    tensors: variables by the graph's names.

  Raises:
    SpecError: the official code has no such model.
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  _check(spec)
  shapes = shapes_of(make_model(spec, "cpu").g, spec)
  found = _sources(spec, shapes)
  vectors = {
    f"{path}/u": TensorSource(found[path].name.removesuffix("w") + "u0", SAME)
    for path in shapes.spectra
  }
  named = tfhub_variables.canonical(tensors)
  leaves = fetch(
    named,
    found | vectors,
    shapes.leaves | {f"{path}/u": s.u for path, s in shapes.spectra.items()},
    ignored=[name for name in named if _UNREAD.fullmatch(name)],
  )
  return shapes.assemble(
    leaves,
    {
      path: spectra.stepped(
        leaves[path], leaves[f"{path}/u"], output_axis(path)
      )
      for path in shapes.spectra
    },
  )


def standing(
  spec: BigganSpec | BigganDeepSpec, tensors: Tensors
) -> dict[str, np.ndarray] | None:
  """Returns the statistics of all truncations, [51, C] by path.

  Args:
    spec: spec with the sizes of the weights.
    tensors: variables that `generator` accepts.

  Returns:
    None if the file contains only the statistics of truncation 1.

  Raises:
    TensorsError: only some of the norms have all statistics.
  """
  rows = tfhub_variables.stacked(tfhub_variables.plain_names(tensors))
  if not rows:
    return None
  shapes = shapes_of(make_model(spec, "cpu").g, spec)
  found = _sources(spec, shapes)
  lacking = sorted(
    found[path].name
    for path in shapes.batch_stats
    if found[path].name not in rows
  )
  raise_if_any(f"missing the stack of {name}" for name in lacking)
  return {
    path: np.array(rows[found[path].name], leaf.dtype)
    for path, leaf in shapes.batch_stats.items()
  }


def g_sources(spec: BigganSpec | BigganDeepSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter and statistic of G."""
  return _sources(spec, shapes_of(make_model(spec, "cpu").g, spec))


def _sources(
  spec: BigganSpec | BigganDeepSpec, shapes: Shapes
) -> dict[str, TensorSource]:
  is_deep = isinstance(spec, BigganDeepSpec)
  swapped = SAME if is_deep else _swapped(spec)
  found = {}
  for path in shapes.leaves:
    layout = SAME
    if re.fullmatch(r"block\d+/norm\d/(gain|bias)/kernel", path):
      layout = swapped
    elif path.endswith("/gamma"):
      layout = FIRST
    found[path] = TensorSource(_name(path, is_deep=is_deep), layout)
  return found


def infer_spec(
  g_tensors: Tensors, d_tensors: Tensors | None = None
) -> BigganSpec | BigganDeepSpec:
  """Infers the model from the names and shapes of its tfhub_variables.

  D was not published. It is assumed to have G's width, and attention where the
  paper has it.

  Args:
    g_tensors: variables by the graph's names.
    d_tensors: tensors of the discriminator, not used.

  Raises:
    TensorsError: the tensors do not match such a model.
  """
  del d_tensors
  named = tfhub_variables.canonical(g_tensors)
  is_deep = "Generator/GBlock/conv3/w" in named
  last = "conv3" if is_deep else "conv0"
  outputs = [
    sizes(named, f"Generator/{scope('GBlock', i)}/{last}/w", 4)[-1]
    for i in range(tfhub_variables.number_of_blocks(named))
  ]
  of = biggan_sizes.of_deep_generator if is_deep else biggan_sizes.of_generator
  resolution, width, depth = of(outputs)
  classes, shared = sizes(named, "linear/w", 2)
  common = {
    "resolution": resolution,
    "num_classes": classes,
    "shared_dim": shared,
    "g_width": width,
    "d_width": width,
    "g_attention": _attention(named, outputs[depth - 1 :: depth]),
    "d_attention": (64,) if resolution > 64 else (),
    "batch_norm_epsilon": 1e-4,
    "spectral_epsilon": 1e-4,
    "num_singular_values": 1,
  }
  if is_deep:
    seen = sizes(named, _DEEP_OUTSIDE["linear/kernel"], 2)[0]
    return BigganDeepSpec(latent_dim=seen - shared, g_depth=depth, **common)
  chunk = sizes(named, _OUTSIDE["linear/kernel"], 2)[0]
  channels = sizes(named, _OUTSIDE["to_rgb/kernel"], 4)[-1]
  latents = chunk * len(G_WIDTHS[resolution])
  return BigganSpec(latent_dim=latents, image_channels=channels, **common)


def _attention(named: Tensors, outputs: list[int]) -> tuple[int, ...]:
  """Returns the resolution of the one stage with the attention's channels."""
  name = "Generator/attention/theta/w"
  if name not in named:
    return ()
  channels = sizes(named, name, 4)[2]
  sides = [8 * 2**i for i, width in enumerate(outputs) if width == channels]
  if len(sides) != 1:
    raise TensorsError(
      f"{name} has {channels} channels, but {len(sides)} of the stages, with "
      f"{', '.join(map(str, outputs))} channels, match; give the model with "
      "--config"
    )
  return tuple(sides)


def _check(spec: BigganSpec | BigganDeepSpec) -> None:
  """Raises `SpecError` if no official generator can match the spec."""
  require(
    spec.num_classes > 0 and spec.shared_dim > 0,
    f"model.num_classes={spec.num_classes} and model.shared_dim="
    f"{spec.shared_dim} must be positive: the official weights are conditional "
    "with a shared embedding",
  )
  require(
    spec.num_singular_values == 1,
    f"model.num_singular_values={spec.num_singular_values} must be 1, because "
    "the official weights store one singular vector per layer",
  )
  require(
    len(spec.g_attention) <= 1,
    f"model.g_attention={spec.g_attention} names more than one resolution, but "
    "the official generators have attention at one; use one",
  )
  if isinstance(spec, BigganDeepSpec):
    require(
      spec.layout == "tfhub",
      f"model.layout={spec.layout!r} must be 'tfhub' for the official weights",
    )
    return
  require(
    spec.hierarchical and spec.g_spectral,
    f"model.hierarchical={spec.hierarchical} and model.g_spectral="
    f"{spec.g_spectral} must both be True for the official weights",
  )


def _swapped(spec: BigganSpec) -> Layout:
  """Swaps rows between [z, y] in the file and [y, z] in bigscale."""
  chunk = spec.latent_dim // len(G_WIDTHS[spec.resolution])
  return Layout(
    lambda x: np.concatenate([x[chunk:], x[:chunk]]),
    lambda x: np.concatenate([x[-chunk:], x[:-chunk]]),
  )


def _name(path: str, *, is_deep: bool) -> str:
  """Returns the variable of a leaf such as "block0/conv1/kernel"."""
  attention = re.fullmatch(r"attention\d+/(.+)", path)
  if attention:
    return f"Generator/attention/{_ATTENTION[attention[1]]}"
  block = re.fullmatch(r"block(\d+)/(.+)", path)
  if block:
    inside = (_inside_deep if is_deep else _inside)(block[2])
    return f"Generator/{scope('GBlock', int(block[1]))}/{inside}"
  return (_DEEP_OUTSIDE if is_deep else _OUTSIDE)[path]


def _inside(rest: str) -> str:
  """Maps "conv1/kernel" or "norm1/gain/kernel" inside a block of BigGAN."""
  owner, _, leaf = rest.rpartition("/")
  if owner in _CONVS:
    return f"{_CONVS[owner]}/{_LEAVES[leaf]}"
  number, part = re.fullmatch(r"norm(\d)/(\w+)", owner).groups()
  if part == "norm":
    return f"{scope('CrossReplicaBN', int(number) - 1)}/accumulated_{leaf}"
  which = {"gain": "gamma", "bias": "beta"}[part]
  return f"{scope('HyperBN', int(number) - 1)}/{which}/w"


def _inside_deep(rest: str) -> str:
  """Maps a leaf inside a block of BigGAN-deep."""
  owner, _, leaf = rest.rpartition("/")
  conv = re.fullmatch(r"conv(\d)", owner)
  if conv:
    return f"conv{int(conv[1]) - 1}/{_LEAVES[leaf]}"
  number, part = re.fullmatch(r"norm(\d)/(\w+)", owner).groups()
  norm = scope("BatchNorm", int(number) - 1)
  if part == "norm":
    return f"{norm}/accumulated_{leaf}"
  which = {"gain": "scale", "bias": "offset"}[part]
  return f"{norm}/{which}/w"


FORMAT = Format(
  generator,
  infer_spec,
  "Generator/*",
  {"G": r"(module/)?Generator/.+"},
  standing=standing,
  truncation_rule="scale",
)
