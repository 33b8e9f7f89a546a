"""The authors' R3GAN state dicts (`R3GAN/Networks.py`), as our networks.

Their stages are counted along the network, ours from 4x4 in both networks.
Their resampling filter is a buffer in the file: ours is fixed, so theirs is
checked.
"""

import re
from collections.abc import Callable, Mapping

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
  permutation,
  raise_if_any,
)
from bigscale.models import r3gan
from bigscale.ops.spectral import flatten, unflatten
from bigscale.spec import R3ganSpec

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
  # A linear layer on one-hot labels: its columns are our rows.
  "classes/embedding": ("EmbeddingLayer.weight", DENSE),
}
_DEPTHWISE = Layout(
  lambda x: np.transpose(x[:, 0], (1, 2, 0)),
  lambda x: np.transpose(x, (2, 0, 1))[:, None],
)


def generator(spec: R3ganSpec, tensors: Tensors) -> Weights:
  """The authors' `Generator.state_dict()` as ours.

  Args:
    spec: the sizes the weights were trained with.
    tensors: by the authors' names, in PyTorch's axis order.

  Raises:
    TensorsError: names every missing, extra and misshaped tensor.
  """
  return _weights(tensors, g_sources(spec), _shapes(spec, "g"))


def discriminator(spec: R3ganSpec, tensors: Tensors) -> Weights:
  """The authors' `Discriminator.state_dict()` as ours; see `generator`."""
  return _weights(tensors, d_sources(spec), _shapes(spec, "d"))


def g_sources(spec: R3ganSpec) -> dict[str, Source]:
  """For every parameter of our G, by path, where it lies in their file."""

  def stage_source(side: int, rest: str) -> Source:
    stage = side.bit_length() - 3
    prefix = f"MainLayers.{stage}.Layers"
    if rest == "transition/kernel":
      return Source(f"{prefix}.0.LinearLayer.Layer.weight", CONV)
    block, inner = _block(rest)
    name, layout = _INNER[inner]
    # Their transition layer comes before the blocks of its stage.
    return Source(f"{prefix}.{block + 1}.{name}", layout)

  return _sources(_shapes(spec, "g"), _G_OUTSIDE, stage_source)


def d_sources(spec: R3ganSpec) -> dict[str, Source]:
  """For every parameter of our D, by path, where it lies in their file."""
  last = len(spec.widths) - 1
  head = f"MainLayers.{last}.Layers.{spec.blocks[0]}"
  outside = {
    "from_rgb/kernel": ("ExtractionLayer.Layer.weight", CONV),
    "basis": (f"{head}.Basis.weight", _DEPTHWISE),
    "logit/kernel": (f"{head}.LinearLayer.weight", DENSE),
    "classes/embedding": ("EmbeddingLayer.weight", DENSE),
  }

  def stage_source(side: int, rest: str) -> Source:
    stage = side.bit_length() - 3
    prefix = f"MainLayers.{last - stage}.Layers"
    if rest == "transition/kernel":
      # And here after them.
      after = spec.blocks[stage]
      return Source(f"{prefix}.{after}.LinearLayer.Layer.weight", CONV)
    block, inner = _block(rest)
    name, layout = _INNER[inner]
    return Source(f"{prefix}.{block}.{name}", layout)

  return _sources(_shapes(spec, "d"), outside, stage_source)


def _sources(
  shapes: Mapping[str, jax.ShapeDtypeStruct],
  outside: Mapping[str, tuple[str, Layout]],
  stage_source: Callable[[int, str], Source],
) -> dict[str, Source]:
  sources = {}
  for path in shapes:
    match = re.fullmatch(r"stage(\d+)_(.*)", path)
    if match:
      sources[path] = stage_source(int(match[1]), match[2])
    else:
      sources[path] = Source(*outside[path])
  return sources


def _block(rest: str) -> tuple[int, str]:
  """From "block1/expand/kernel" to its number and what is inside."""
  block, inner = rest.split("/", 1)
  return int(block.removeprefix("block")), inner


def _shapes(spec: R3ganSpec, player: str) -> dict[str, jax.ShapeDtypeStruct]:
  network = getattr(r3gan.make(spec, "cpu"), player)
  return flatten(jax.eval_shape(network.init, jax.random.key(0))["params"])


def _weights(
  tensors: Tensors,
  sources: Mapping[str, Source],
  shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> Weights:
  filters = {name for name in tensors if _FILTER_NAME.fullmatch(name)}
  params = fetch(tensors, sources, shapes, ignored=filters)
  raise_if_any(
    f"{name}: its filter is not [1, 3, 3, 1] x [1, 3, 3, 1] / 64, the only one "
    "there is here"
    for name in sorted(filters)
    if tensors[name].shape != _FILTER.shape
    or not np.allclose(tensors[name], _FILTER, rtol=0, atol=1e-6)
  )
  return Weights(unflatten(params), {}, {})
