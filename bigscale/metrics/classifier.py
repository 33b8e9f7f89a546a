"""Features that need no download: a classifier trained on the source's labels.

This is a small residual convolutional network that trains in about a minute on
two CPU cores. Images are first folded to at most 16 x 16 positions. Resolution
is halved by 2x2 patches instead of strided 3x3 convolutions, because XLA's CPU
compiler spends four times the arithmetic on the input gradient of the latter.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from bigscale.metrics import chunks
from bigscale.metrics.features import Embedding
from bigscale.ops import precision
from bigscale.ops.images import to_float
from bigscale.parallel import interruption
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import replicated
from bigscale.spec import MeshSpec, require
from bigscale.types import Array, PyTree

# Increase with every change that alters the features of the same images.
VERSION = 1
FEATURES = 64

_POSITIONS = 16  # side after folding
_WIDTHS = (16, 32, 64)
_BATCH = 64
_EPOCHS, _MAX_EPOCHS = 20, 50
_MIN_STEPS, _MAX_STEPS = 3_000, 20_000
_PEAK_LR = 1e-2
_CHUNK = 256


class _Network(nn.Module):
  """Maps images [B, R, R, C] uint8 to features [B, FEATURES] and logits."""

  num_classes: int

  @nn.compact
  def __call__(self, images: Array, train: bool) -> tuple[Array, Array]:
    def normalize(x: Array) -> Array:
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

    def conv(x: Array, width: int) -> Array:
      x = nn.Conv(width, (3, 3), use_bias=False)(x)
      return nn.relu(normalize(x))

    def shrink(x: Array, width: int) -> Array:
      x = nn.Dense(width, use_bias=False)(_fold(x, 2))
      return nn.relu(normalize(x))

    x = to_float(images)
    x = conv(_fold(x, max(1, x.shape[1] // _POSITIONS)), _WIDTHS[0])
    for width in _WIDTHS[1:]:
      x = shrink(x, width)
      x = x + conv(x, width)
    x = nn.Dense(FEATURES)(x.mean(axis=(1, 2)))
    # Smooth: with ReLU half of the features would be 0, unlike a Gaussian.
    features = nn.gelu(normalize(x))
    return features, nn.Dense(self.num_classes)(features)


def _fold(x_bhwc: Array, factor: int) -> Array:
  """Moves blocks of `factor` x `factor` pixels into channels."""
  b, h, w, c = x_bhwc.shape
  x = x_bhwc.reshape(b, h // factor, factor, w // factor, factor, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // factor, w // factor, factor * factor * c)


class Classifier:
  """A trained network that implements `metrics.features.Features`.

  Attributes:
    variables: parameters and batch statistics.
    num_classes: K.
    image_shape: (R, R, C) of its input images.
  """

  name = "classifier"
  dimension = FEATURES

  def __init__(
    self,
    variables: PyTree,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mesh: Mesh | None = None,
  ) -> None:
    """Places the variables on the devices of a mesh.

    Args:
      variables: parameters and batch statistics.
      num_classes: K.
      image_shape: (R, R, C).
      mesh: mesh over whose devices a chunk of images is split. All its
        processes must embed the same images together. None uses this process's
        devices.
    """
    self.variables = variables
    self.num_classes = num_classes
    self.image_shape = image_shape
    self._mesh = mesh or make_mesh(MeshSpec(), jax.local_devices())
    self._placed = jax.device_put(variables, replicated(self._mesh))

  @functools.cached_property
  def fingerprint(self) -> str:
    """Hash of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(self.to_arrays().items()):
      digest.update(name.encode())
      digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]

  @property
  def protocol(self) -> dict[str, Any]:
    """Everything else that its scores depend on, as JSON values."""
    height, width, channels = self.image_shape
    return {
      "feature": f"classifier_v{VERSION}",
      "feature_length": FEATURES,
      "resize": f"transforms.fit to {height}x{width}x{channels}, uint8",
    }

  def embed(self, images: np.ndarray) -> Embedding:
    """Computes features and probabilities in one pass.

    Args:
      images: [N, R, R, C] uint8.

    Raises:
      SpecError: images have another shape or dtype.
    """
    _check_images(images, self.image_shape)
    features = np.empty((len(images), FEATURES), np.float32)
    probabilities = np.empty((len(images), self.num_classes), np.float32)
    infer = _inference(self.num_classes, self._mesh)
    found = chunks.run(
      functools.partial(infer, self._placed),
      images,
      -(-_CHUNK // self._mesh.size) * self._mesh.size,
      self._mesh,
    )
    for rows, values in found:
      for into, value in zip((features, probabilities), values, strict=True):
        into[rows] = np.asarray(value)[: rows.stop - rows.start]
    return Embedding(features, probabilities)

  def outputs(self, variables: PyTree, images: Array) -> tuple[Array, Array]:
    """See `metrics.features.Features`."""
    return _outputs(self.num_classes, variables, images)

  def features(self, images: np.ndarray) -> np.ndarray:
    """Returns [N, FEATURES] float32 of [N, R, R, C] uint8; see `embed`."""
    return self.embed(images).features

  def probabilities(self, images: np.ndarray) -> np.ndarray:
    """Returns [N, num_classes] float32 of [N, R, R, C] uint8; see `embed`."""
    return self.embed(images).probabilities

  def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the accuracy on [N, R, R, C] uint8 images with labels [N]."""
    return float((self.probabilities(images).argmax(-1) == labels).mean())

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Returns the variables by path, for example "params/Dense_0/kernel"."""
    flat = traverse_util.flatten_dict(self.variables, sep="/")
    return {name: np.asarray(value) for name, value in flat.items()}

  @classmethod
  def from_arrays(
    cls,
    arrays: Mapping[str, np.ndarray],
    num_classes: int,
    image_shape: tuple[int, int, int],
  ) -> "Classifier":
    """Rebuilds a classifier from the arrays of `to_arrays`.

    Raises:
      KeyError: an array is missing.
      ValueError: an array has another shape or dtype than the network's.
    """
    abstract = abstract_variables(num_classes, image_shape)
    flat = {}
    for name, leaf in traverse_util.flatten_dict(abstract, sep="/").items():
      value = arrays[name]
      if value.shape != leaf.shape or value.dtype != leaf.dtype:
        raise ValueError(f"{name} is {value.dtype} {list(value.shape)}")
      flat[name] = value
    variables = traverse_util.unflatten_dict(flat, sep="/")
    return cls(variables, num_classes, image_shape)


def abstract_variables(
  num_classes: int, image_shape: tuple[int, int, int]
) -> PyTree:
  """Returns the shapes and dtypes of the network's variables."""
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
  init = functools.partial(_Network(num_classes).init, train=False)
  return jax.eval_shape(init, jax.random.key(0), images)


def train_classifier(
  images: np.ndarray,
  labels: np.ndarray,
  num_classes: int,
  *,
  seed: int,
  steps: int | None = None,
) -> Classifier:
  """Trains on shifted and mirrored images with AdamW and a one-cycle schedule.

  Training is deterministic: equal arguments give equal bits on one machine.

  Args:
    images: [N, R, R, C] uint8; R is a power of two, 4 or more.
    labels: [N] int32 in [0, num_classes).
    num_classes: 2 or more.
    seed: seed of the weights, the order and the augmentation.
    steps: number of steps of 64 images. None uses the larger of 20 epochs and
      3,000 steps, but at most 50 epochs and 20,000 steps.

  Raises:
    SpecError: an argument violates one of these rules.
  """
  _check_training_set(images, labels, num_classes)
  batch = min(_BATCH, len(images))
  steps = default_steps(len(images)) if steps is None else steps
  require(steps >= 1, f"classifier steps={steps} must be 1 or more")
  network = _Network(num_classes)
  key = jax.random.key(seed)
  state = _init(network, steps, key, images[:1])
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(images))
  used = 0
  for step in range(steps):
    interruption.point()
    if used + batch > len(order):
      order, used = rng.permutation(len(images)), 0
    chosen = order[used : used + batch]
    used += batch
    state = _update(
      network, steps, state, key, np.int32(step), images[chosen], labels[chosen]
    )
  variables = jax.device_get(state.variables)
  return Classifier(variables, num_classes, images.shape[1:])


class _State(NamedTuple):
  variables: dict[str, PyTree]
  optimizer: optax.OptState


def check_side(side: int) -> None:
  """Raises `SpecError` unless the network supports images of this size."""
  require(
    side >= 4 and side & (side - 1) == 0,
    f"the classifier does not support {side} px images; resize them to a power "
    "of two, 4 or more",
  )


def default_steps(count: int) -> int:
  """Returns the number of training steps for `count` images.

  See `train_classifier`. Small sets get fewer than 3,000 steps, because a
  classifier that memorizes its train images places other reals far from them.
  """
  steps = max(_EPOCHS * count // _BATCH, _MIN_STEPS)
  return max(min(steps, _MAX_EPOCHS * count // _BATCH, _MAX_STEPS), 1)


def _optimizer(steps: int) -> optax.GradientTransformation:
  # The schedule needs at least one step on each side of its peak.
  schedule = optax.cosine_onecycle_schedule(
    max(steps, 5), _PEAK_LR, pct_start=0.2
  )
  return optax.adamw(schedule, weight_decay=1e-4)


@functools.partial(jax.jit, static_argnums=(0, 1))
@precision.exact
def _init(network: _Network, steps: int, key: Array, images: Array) -> _State:
  variables = network.init(key, images, train=False)
  return _State(variables, _optimizer(steps).init(variables["params"]))


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
@precision.exact
def _update(
  network: _Network,
  steps: int,
  state: _State,
  key: Array,
  step: Array,
  images: Array,
  labels: Array,
) -> _State:
  images = _augment(jax.random.fold_in(key, step), images)
  params = state.variables["params"]

  def loss(params: PyTree) -> tuple[Array, PyTree]:
    variables = {**state.variables, "params": params}
    (_, logits), statistics = network.apply(
      variables, images, train=True, mutable=["batch_stats"]
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), labels
    )
    return losses.mean(), statistics

  gradients, statistics = jax.grad(loss, has_aux=True)(params)
  updates, optimizer = _optimizer(steps).update(
    gradients, state.optimizer, params
  )
  params = optax.apply_updates(params, updates)
  return _State({"params": params, **statistics}, optimizer)


@functools.cache
def _inference(
  num_classes: int, mesh: Mesh
) -> Callable[[PyTree, Array], tuple[Array, Array]]:
  """Returns a jitted function to features and probabilities, replicated."""
  infer = precision.exact(functools.partial(_outputs, num_classes))
  return jax.jit(infer, out_shardings=replicated(mesh))


def _outputs(
  num_classes: int, variables: PyTree, images: Array
) -> tuple[Array, Array]:
  network = _Network(num_classes)
  features, logits = network.apply(variables, images, train=False)
  return features, jax.nn.softmax(logits)


def _augment(key: Array, images_bhwc: Array) -> Array:
  """Shifts images by up to 1/16 of their side, and mirrors half of them."""
  b, side = images_bhwc.shape[:2]
  reach = max(1, side // 16)
  shift_key, flip_key = jax.random.split(key)
  padded = jnp.pad(
    images_bhwc, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge"
  )
  corners = jax.random.randint(shift_key, (b, 2), 0, 2 * reach + 1)
  mirrored = jax.random.bernoulli(flip_key, 0.5, (b,))

  def one(image: Array, corner: Array, mirror: Array) -> Array:
    start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
    image = jax.lax.dynamic_slice(image, start, images_bhwc.shape[1:])
    return jnp.where(mirror, image[:, ::-1], image)

  return jax.vmap(one)(padded, corners, mirrored)


def _check_training_set(
  images: np.ndarray, labels: np.ndarray, num_classes: int
) -> None:
  side = images.shape[1]
  check_side(side)
  _check_images(images, (side, side, images.shape[-1]))
  require(
    num_classes >= 2,
    f"num_classes={num_classes} must be 2 or more to train a classifier",
  )
  require(
    len(images) == len(labels) and len(images) >= 2,
    f"{len(images)} images with {len(labels)} labels cannot train a "
    "classifier; give at least 2 images and one label for each",
  )
  require(
    labels.min() >= 0 and labels.max() < num_classes,
    f"labels from {labels.min()} to {labels.max()} do not lie in "
    f"[0, {num_classes}); correct them or num_classes",
  )


def _check_images(
  images: np.ndarray, image_shape: tuple[int, int, int]
) -> None:
  require(
    images.dtype == np.uint8 and images.shape[1:] == tuple(image_shape),
    f"images are {images.dtype} {list(images.shape)}, but the classifier "
    f"takes uint8 [N, {', '.join(map(str, image_shape))}]; resize and convert "
    "them first",
  )
