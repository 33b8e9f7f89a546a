"""Converts the authors' R3GAN state dicts (`R3GAN/Networks.py`).

The authors number stages along the network; bigscale numbers them from 4x4 in
both networks. The files contain the resampling filter as a buffer. bigscale's
filter is fixed, so the buffer is only checked.
"""

import re
from collections.abc import Callable, Mapping

import jax
import numpy as np

from bigscale.interop.tensors import (
  CONV,
  DENSE,
  SAME,
  ConvertedWeights,
  Format,
  Layout,
  Tensors,
  TensorsError,
  TensorSource,
  fetch,
  permutation,
  raise_if_any,
)
from bigscale.models.r3gan import R3ganSpec
from bigscale.models.r3gan import networks as r3gan
from bigscale.ops.spectral import flatten, unflatten
from bigscale.spec import require

_FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
_FILTER_NAME = re.compile(r"MainLayers\.\d+\.Layers\.\d+\.Resampler\.Kernel")

_INNER = {
  "expand/kernel": ("LinearLayer1.Layer.weight", CONV),
  "expand_act/bias": ("NonLinearity1.Bias", SAME),
  "grouped/kernel": ("LinearLayer2.Layer.weight", CONV),
  "grouped_act/bias": ("NonLinearity2.Bias", SAME),
  "reduce/kernel": ("LinearLayer3.Layer.weight", CONV),
}
_G_OUTSIDE = {
  "basis": ("MainLayers.0.Layers.0.Basis", permutation(1, 2, 0)),
  "latents/kernel": ("MainLayers.0.Layers.0.LinearLayer.weight", DENSE),
  "to_rgb/kernel": ("AggregationLayer.Layer.weight", CONV),
  # A linear layer on one-hot labels: its columns are the rows of an embedding.
  "classes/embedding": ("EmbeddingLayer.weight", DENSE),
}
_DEPTHWISE = Layout(
  lambda x: np.transpose(x[:, 0], (1, 2, 0)),
  lambda x: np.transpose(x, (2, 0, 1))[:, None],
)


def generator(spec: R3ganSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Generator.state_dict()`.

  Args:
    spec: spec with the sizes of the weights.
    tensors: tensors by the authors' names, in PyTorch's axis order.

  Raises:
    TensorsError: names every missing, unexpected and misshaped tensor.
  """
  return _weights(tensors, g_sources(spec), _shapes(spec, "g"))


def discriminator(spec: R3ganSpec, tensors: Tensors) -> ConvertedWeights:
  """Converts the authors' `Discriminator.state_dict()`; see `generator`."""
  return _weights(tensors, d_sources(spec), _shapes(spec, "d"))


def infer_spec(
  g_tensors: Tensors, d_tensors: Tensors | None = None
) -> R3ganSpec:
  """Infers the sizes of a generator from its shapes.

  Settings that shapes do not determine keep their defaults: all stages in
  float32, and class vectors only at the first stage, as in all published
  weights.

  Args:
    g_tensors: the authors' `Generator.state_dict()`.
    d_tensors: tensors of the discriminator, not used.

  Raises:
    SpecError: the tensors are not an R3GAN, or of a variant that bigscale does
      not support.
  """
  del d_tensors
  stages = 1 + max(_numbers(r"MainLayers\.(\d+)\..*", g_tensors), default=-1)
  if not stages:
    raise TensorsError(
      "no tensor is named MainLayers.*, as the stages of an R3GAN generator "
      "are; use the file of such a generator, or another --format"
    )
  sizes = [_stage_sizes(g_tensors, stage) for stage in range(stages)]
  widths, inners, blocks, cardinality = zip(*sizes, strict=True)
  expansions = sorted({i / w for i, w in zip(inners, widths, strict=True)})
  require(
    len(expansions) == 1,
    f"stages of widths {widths} have {inners} channels inside their blocks, "
    "but bigscale's R3GAN supports only one expansion for all stages",
  )
  embedding = _shape(g_tensors, "EmbeddingLayer.weight", 2)
  class_dim, classes = embedding or (0, 0)
  linear = _shape(g_tensors, _G_OUTSIDE["latents/kernel"][0], 2)
  if not linear:
    raise TensorsError(
      f"{_G_OUTSIDE['latents/kernel'][0]} (width, latent_dim) is missing or "
      "does not have 2 axes, but latent_dim is inferred from it; use a "
      "complete file"
    )
  to_rgb = _shape(g_tensors, _G_OUTSIDE["to_rgb/kernel"][0], 4)
  return R3ganSpec(
    resolution=4 * 2 ** (stages - 1),
    image_channels=to_rgb[0] if to_rgb else 3,
    num_classes=classes,
    latent_dim=linear[1] - class_dim,
    widths=widths,
    blocks=blocks,
    cardinality=cardinality,
    expansion=expansions[0],
    **({"class_embedding_dim": class_dim} if classes else {}),
  )


def _stage_sizes(tensors: Tensors, stage: int) -> tuple[int, int, int, int]:
  """Returns width, inner width, number of blocks and cardinality of a stage."""
  prefix = rf"MainLayers\.{stage}\.Layers\.(\d+)"
  inside = prefix + r"\.(?:LinearLayer|NonLinearity)\d\..*"
  blocks = max(_numbers(inside, tensors), default=0)
  # Use any complete block; `fetch` reports missing tensors later.
  for block in range(1, blocks + 1):
    layer = f"MainLayers.{stage}.Layers.{block}.LinearLayer"
    expand = _shape(tensors, f"{layer}1.Layer.weight", 4)
    grouped = _shape(tensors, f"{layer}2.Layer.weight", 4)
    if expand and grouped:
      inner, width = expand[:2]
      return width, inner, blocks, inner // grouped[1]
  name = f"MainLayers.{stage}.Layers.1.LinearLayer"
  raise TensorsError(
    f"no block of stage {stage} has both of its tensors, for example "
    f"{name}1.Layer.weight and {name}2.Layer.weight; use a complete file of an "
    "R3GAN generator"
  )


def _numbers(pattern: str, tensors: Tensors) -> list[int]:
  """Returns the integers that the pattern's group matches in tensor names."""
  matches = (re.fullmatch(pattern, name) for name in tensors)
  return [int(match[1]) for match in matches if match]


def _shape(tensors: Tensors, name: str, ndim: int) -> tuple[int, ...] | None:
  """Returns a tensor's shape, or None if missing, empty or of other rank."""
  shape = tensors[name].shape if name in tensors else ()
  return shape if len(shape) == ndim and all(shape) else None


def g_sources(spec: R3ganSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter of G, by path."""

  def stage_source(side: int, rest: str) -> TensorSource:
    stage = side.bit_length() - 3
    prefix = f"MainLayers.{stage}.Layers"
    if rest == "transition/kernel":
      return TensorSource(f"{prefix}.0.LinearLayer.Layer.weight", CONV)
    block, inner = _block(rest)
    name, layout = _INNER[inner]
    # In G's file, a stage's transition layer comes before its blocks.
    return TensorSource(f"{prefix}.{block + 1}.{name}", layout)

  return _sources(_shapes(spec, "g"), _G_OUTSIDE, stage_source)


def d_sources(spec: R3ganSpec) -> dict[str, TensorSource]:
  """Returns the file's tensor for each parameter of D, by path."""
  last = len(spec.widths) - 1
  head = f"MainLayers.{last}.Layers.{spec.blocks[0]}"
  outside = {
    "from_rgb/kernel": ("ExtractionLayer.Layer.weight", CONV),
    "basis": (f"{head}.Basis.weight", _DEPTHWISE),
    "logit/kernel": (f"{head}.LinearLayer.weight", DENSE),
    "classes/embedding": ("EmbeddingLayer.weight", DENSE),
  }

  def stage_source(side: int, rest: str) -> TensorSource:
    stage = side.bit_length() - 3
    prefix = f"MainLayers.{last - stage}.Layers"
    if rest == "transition/kernel":
      # In D's file, a stage's transition layer comes after its blocks.
      after = spec.blocks[stage]
      return TensorSource(f"{prefix}.{after}.LinearLayer.Layer.weight", CONV)
    block, inner = _block(rest)
    name, layout = _INNER[inner]
    return TensorSource(f"{prefix}.{block}.{name}", layout)

  return _sources(_shapes(spec, "d"), outside, stage_source)


def _sources(
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  outside: Mapping[str, tuple[str, Layout]],
  stage_source: Callable[[int, str], TensorSource],
) -> dict[str, TensorSource]:
  sources = {}
  for path in shapes:
    match = re.fullmatch(r"stage(\d+)_(.*)", path)
    if match:
      sources[path] = stage_source(int(match[1]), match[2])
    else:
      sources[path] = TensorSource(*outside[path])
  return sources


def _block(rest: str) -> tuple[int, str]:
  """Splits "block1/expand/kernel" into the block number and the rest."""
  block, inner = rest.split("/", 1)
  return int(block.removeprefix("block")), inner


def _shapes(spec: R3ganSpec, player: str) -> dict[str, jax.ShapeDtypeStruct]:
  network = getattr(r3gan.make(spec, "cpu"), player)
  return flatten(jax.eval_shape(network.init, jax.random.key(0))["params"])


def _weights(
  tensors: Tensors,
  sources: Mapping[str, TensorSource],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> ConvertedWeights:
  filters = {name for name in tensors if _FILTER_NAME.fullmatch(name)}
  params = fetch(tensors, sources, shapes, ignored=filters)
  raise_if_any(
    f"{name}: its filter must be [1, 3, 3, 1] x [1, 3, 3, 1] / 64, the only "
    "one that bigscale supports"
    for name in sorted(filters)
    if tensors[name].shape != _FILTER.shape
    or not np.allclose(tensors[name], _FILTER, rtol=0, atol=1e-6)
  )
  return ConvertedWeights(unflatten(params), {}, {})


FORMAT = Format(
  generator,
  infer_spec,
  "MainLayers.*",
  {"G": r"AggregationLayer\..+", "D": r"ExtractionLayer\..+"},
  discriminator=discriminator,
)
