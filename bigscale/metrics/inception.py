"""The Inception-v3 of 2015, whose features define the FID.

This is the network of TensorFlow's `inception-2015-12-05` graph, as rebuilt by
pytorch-fid and torch-fidelity. It differs from the published architecture:
average pooling excludes the padding, the last block uses max pooling, and there
are 1008 outputs. Torchvision's own weights give other features.

Images are resized to 299 px in one of two ways (`inception_resize`). Scores
with different resizing are not comparable.
"""

import functools
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from bigscale.metrics import chunks, inception_resize
from bigscale.metrics.features import Embedding, FrozenWeights
from bigscale.metrics.inception_resize import RULES, SIDE, Resize
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import replicated
from bigscale.spec import MeshSpec, require
from bigscale.types import Array, PyTree

FEATURES = 2048
CLASSES = 1008
# Number of values per image for each output that `Inception.taps` returns.
TAPS: dict[str, int] = {
  "64": 64,
  "192": 192,
  "768": 768,
  "2048": FEATURES,
  "logits_unbiased": CLASSES,
  "logits": CLASSES,
  "probabilities": CLASSES,
}

_WIDE, _TALL = (1, 7), (7, 1)


@functools.cache
def leaves() -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes and dtypes of the network's variables, by path."""
  images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
  variables = jax.eval_shape(_Network().init, jax.random.key(0), images)
  return traverse_util.flatten_dict(variables, sep="/")


class Inception:
  """The network on a mesh; implements `metrics.features.Features`.

  Attributes:
    variables: weights, replicated over all devices.
    name: `inception`, or `inception_clean` with the `clean` resize mode.
    fingerprint: hash of the weights.
    protocol: JSON values that scores depend on: `feature`, `feature_length`,
      `weights` (fingerprint), `weights_source`, `resize` (mode),
      `resize_rule`, `probabilities`.
  """

  dimension = FEATURES
  num_classes = CLASSES

  def __init__(
    self,
    weights: FrozenWeights,
    mesh: Mesh | None = None,
    resize: Resize = "tf1",
    images_per_device: int = 32,
  ) -> None:
    """Places the weights on the devices of a mesh.

    Args:
      weights: see `inception_store.load`.
      mesh: mesh over whose devices a chunk of images is split. All its
        processes must embed the same images together. None uses this process's
        devices.
      resize: resize mode, see `inception_resize`.
      images_per_device: number of images per device and chunk, which sets the
        only shape that is compiled.

    Raises:
      SpecError: `resize` is unknown, or `images_per_device` is below 1.
    """
    modes = ", ".join(RULES)
    require(resize in RULES, f"resize={resize!r} must be one of {modes}")
    require(
      images_per_device >= 1,
      f"images_per_device={images_per_device} must be 1 or more",
    )
    self._mesh = mesh or make_mesh(MeshSpec(), jax.local_devices())
    self._chunk = images_per_device * self._mesh.size
    self._resize = resize
    self.name = "inception_clean" if resize == "clean" else "inception"
    self.fingerprint = weights.fingerprint
    self.variables = jax.device_put(weights.variables, replicated(self._mesh))
    # Replicated outputs: every process reads the results of all images.
    self._infer = jax.jit(_infer, out_shardings=replicated(self._mesh))
    self.protocol: dict[str, Any] = {
      "feature": "inception_v3_2015_12_05",
      "feature_length": FEATURES,
      "weights": weights.fingerprint,
      "weights_source": weights.source,
      "resize": resize,
      "resize_rule": RULES[resize],
      "probabilities": "softmax of the 1008 logits without their bias",
    }

  def taps(
    self, images: np.ndarray, names: Collection[str] = tuple(TAPS)
  ) -> dict[str, np.ndarray]:
    """Computes the outputs of several layers in one pass.

    Args:
      images: [N, H, W, 1 or 3] uint8; gray images are repeated to three
        channels.
      names: names in `TAPS`. "64" and "192" are means over positions after the
        first and second max pooling, "768" after Mixed_6e.

    Returns:
      [N, TAPS[name]] float32 by name.

    Raises:
      SpecError: images do not have the expected shape or dtype, or a name is
        unknown.
    """
    chunks.check(images, "Inception")
    for name in names:
      require(name in TAPS, f"tap {name!r} is not one of {', '.join(TAPS)}")
    found = {
      name: np.empty((len(images), TAPS[name]), np.float32) for name in names
    }
    clean = self._resize == "clean"
    prepare = inception_resize.resize_clean if clean else np.asarray
    network = functools.partial(self._infer, self.variables)
    for rows, values in chunks.run(
      network, images, self._chunk, self._mesh, prepare
    ):
      for name, into in found.items():
        into[rows] = np.asarray(values[name])[: rows.stop - rows.start]
    return found

  def embed(self, images: np.ndarray) -> Embedding:
    """Computes features and probabilities in one pass; see `taps`."""
    found = self.taps(images, ("2048", "probabilities"))
    return Embedding(found["2048"], found["probabilities"])

  def outputs(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
    """See `metrics.features.Features`.

    Images are resized as in TensorFlow, also in the `clean` mode, whose
    resizing runs on the host.
    """
    found = _infer(variables, images)
    return found["2048"], found["probabilities"]

  def features(self, images: np.ndarray) -> np.ndarray:
    """Returns [N, 2048] float32 of [N, H, W, 1 or 3] uint8; see `taps`."""
    return self.taps(images, ("2048",))["2048"]

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """Returns [N, 1008] float32 for the Inception score; see `taps`.

    The logits exclude their bias, as in the score's original code (Salimans et
    al. 2016) and in torch-fidelity.
    """
    return self.taps(images, ("probabilities",))["probabilities"]


def _infer(variables: PyTree, images: Array) -> dict[str, Array]:
  """Returns all taps of images [B, H, W, 1 or 3] with values in [0, 255]."""
  x = images.astype(jnp.float32)
  # The `clean` mode has already resized the images on the host.
  if x.shape[1:3] != (SIDE, SIDE):
    x = inception_resize.resize_tf1(x)
  if x.shape[-1] == 1:
    x = jnp.repeat(x, 3, axis=-1)
  return _Network().apply(variables, (x - 128) / 128)


class _Network(nn.Module):
  """Maps images [B, 299, 299, 3] in [-1, 1] to all `TAPS`."""

  @nn.compact
  def __call__(self, x: Array) -> dict[str, Array]:
    taps = {}
    x = _conv(x, "Conv2d_1a_3x3", 32, 3, strides=2, padding="VALID")
    x = _conv(x, "Conv2d_2a_3x3", 32, 3, padding="VALID")
    x = _conv(x, "Conv2d_2b_3x3", 64, 3)
    x = _shrink(x)
    taps["64"] = x.mean((1, 2))
    x = _conv(x, "Conv2d_3b_1x1", 80, 1)
    x = _conv(x, "Conv2d_4a_3x3", 192, 3, padding="VALID")
    x = _shrink(x)
    taps["192"] = x.mean((1, 2))
    for letter, width in zip("bcd", (32, 64, 64), strict=True):
      x = _Block5(width, name=f"Mixed_5{letter}")(x)
    x = _Reduction6(name="Mixed_6a")(x)
    for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
      x = _Block6(width, name=f"Mixed_6{letter}")(x)
    taps["768"] = x.mean((1, 2))
    x = _Reduction7(name="Mixed_7a")(x)
    x = _Block7(_average, name="Mixed_7b")(x)
    x = _Block7(_maximum, name="Mixed_7c")(x)
    x = taps["2048"] = x.mean((1, 2))
    taps["logits_unbiased"], taps["logits"] = _Logits(name="fc")(x)
    taps["probabilities"] = jax.nn.softmax(taps["logits_unbiased"])
    return taps


class _Block5(nn.Module):
  """A block at 35 px with `pool_width` channels after pooling."""

  pool_width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return _join(
      _conv(x, "branch1x1", 64, 1),
      _chain(x, "branch5x5", (48, 1), (64, 5)),
      _chain(x, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
      _conv(_average(x), "branch_pool", self.pool_width, 1),
    )


class _Reduction6(nn.Module):
  """Reduces 35 px to 17 px."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    double = _chain(x, "branch3x3dbl", (64, 1), (96, 3))
    return _join(
      _halve(x, "branch3x3", 384),
      _halve(double, "branch3x3dbl_3", 96),
      _shrink(x),
    )


class _Block6(nn.Module):
  """A block at 17 px with `width` channels inside factorized 7x7 convs."""

  width: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    w = self.width
    double = ((w, 1), (w, _TALL), (w, _WIDE), (w, _TALL))
    return _join(
      _conv(x, "branch1x1", 192, 1),
      _chain(x, "branch7x7", (w, 1), (w, _WIDE), (192, _TALL)),
      _chain(x, "branch7x7dbl", *double, (192, _WIDE)),
      _conv(_average(x), "branch_pool", 192, 1),
    )


class _Reduction7(nn.Module):
  """Reduces 17 px to 8 px."""

  @nn.compact
  def __call__(self, x: Array) -> Array:
    seven = _chain(x, "branch7x7x3", (192, 1), (192, _WIDE), (192, _TALL))
    return _join(
      _halve(_conv(x, "branch3x3_1", 192, 1), "branch3x3_2", 320),
      _halve(seven, "branch7x7x3_4", 192),
      _shrink(x),
    )


class _Block7(nn.Module):
  """A block at 8 px with a configurable pooling function."""

  pool: Any

  @nn.compact
  def __call__(self, x: Array) -> Array:
    single = _conv(x, "branch3x3_1", 384, 1)
    double = _chain(x, "branch3x3dbl", (448, 1), (384, 3))
    return _join(
      _conv(x, "branch1x1", 320, 1),
      _conv(single, "branch3x3_2a", 384, (1, 3)),
      _conv(single, "branch3x3_2b", 384, (3, 1)),
      _conv(double, "branch3x3dbl_3a", 384, (1, 3)),
      _conv(double, "branch3x3dbl_3b", 384, (3, 1)),
      _conv(self.pool(x), "branch_pool", 192, 1),
    )


class _ConvNorm(nn.Module):
  """Convolution, batch norm with running statistics, ReLU."""

  width: int
  kernel: tuple[int, int]
  strides: int
  padding: str

  @nn.compact
  def __call__(self, x: Array) -> Array:
    x = nn.Conv(
      self.width,
      self.kernel,
      self.strides,
      self.padding,
      use_bias=False,
      precision=jax.lax.Precision.HIGHEST,
      name="conv",
    )(x)
    norm = nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")
    return nn.relu(norm(x))


class _Logits(nn.Module):
  """Maps [B, 2048] to logits without and with their bias."""

  @nn.compact
  def __call__(self, x: Array) -> tuple[Array, Array]:
    init = nn.initializers.zeros_init()
    kernel = self.param("kernel", init, (FEATURES, CLASSES))
    bias = self.param("bias", init, (CLASSES,))
    unbiased = jnp.dot(x, kernel, precision=jax.lax.Precision.HIGHEST)
    return unbiased, unbiased + bias[None]


def _conv(
  x: Array,
  name: str,
  width: int,
  kernel: int | tuple[int, int],
  strides: int = 1,
  padding: str = "SAME",
) -> Array:
  sides = (kernel, kernel) if isinstance(kernel, int) else kernel
  return _ConvNorm(width, sides, strides, padding, name=name)(x)


_halve = functools.partial(_conv, kernel=3, strides=2, padding="VALID")


def _chain(
  x: Array, name: str, *layers: tuple[int, int | tuple[int, int]]
) -> Array:
  """Applies convolutions NAME_1, NAME_2, ... with (width, kernel) each."""
  for i, (width, kernel) in enumerate(layers, 1):
    x = _conv(x, f"{name}_{i}", width, kernel)
  return x


def _join(*branches: Array) -> Array:
  return jnp.concatenate(branches, axis=-1)


_shrink = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))
_maximum = functools.partial(nn.max_pool, window_shape=(3, 3), padding="SAME")
_average = functools.partial(
  nn.avg_pool, window_shape=(3, 3), padding="SAME", count_include_pad=False
)
