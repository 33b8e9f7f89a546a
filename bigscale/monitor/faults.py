"""Faults and controls for drills.

Faults may ruin a training. Controls disturb it without harm. Each starts at one
step and lasts until the first rollback: a drill assumes that a rollback removes
the cause, as when a bad shard is skipped or a setting is corrected. Causes that
survive a rollback are not tested.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.train.disturb import Disturbance, Step
from bigscale.train.state import GanState
from bigscale.types import Array, Batch, PyTree


@dataclasses.dataclass(frozen=True)
class Scene:
  """Inputs of a disturbance.

  Attributes:
    start: first disturbed step.
    size: size of the disturbance, in units that depend on its kind.
    seed: seed of the disturbance's random numbers.
    programs: other compiled steps for the same state, by name.
  """

  start: int
  size: float
  seed: int
  programs: dict[str, Callable[[], Step]] = dataclasses.field(
    default_factory=dict
  )


class _From(Disturbance):
  """A disturbance from its first step on, in the first attempt only."""

  def __init__(self, scene: Scene) -> None:
    self.scene = scene

  def on(self, step: int, attempt: int) -> bool:
    """Returns whether this step is disturbed."""
    return attempt == 0 and step >= self.scene.start

  def at(self, step: int, attempt: int) -> bool:
    """Returns whether this is the first disturbed step."""
    return attempt == 0 and step == self.scene.start

  def random(self, step: int) -> np.random.Generator:
    """Returns a generator seeded by the step, so that a drill can resume."""
    return np.random.default_rng((self.scene.seed, step))


class Dial(_From):
  """Multiplies dials of the state once."""

  def __init__(self, scene: Scene, *names: str) -> None:
    super().__init__(scene)
    self._names = names

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """See `Disturbance`."""
    if not self.at(step, attempt):
      return state
    return _turn(state, self._names, self.scene.size)


class DialPulses(_From):
  """Raises D's learning rate three times for 3 steps each: short spikes."""

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """See `Disturbance`."""
    since = step - self.scene.start
    if attempt or since not in (0, 3, 60, 63, 120, 123):
      return state
    up = since in (0, 60, 120)
    size = self.scene.size
    return _turn(state, ("d_lr",), size if up else 1 / size)


class FaultyReals(_From):
  """Changes the real images and labels of every step."""

  def __init__(
    self,
    scene: Scene,
    change: Callable[[np.random.Generator, np.ndarray, np.ndarray], Batch],
  ) -> None:
    super().__init__(scene)
    self._change = change

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if not self.on(step, attempt):
      return batch
    return self._change(self.random(step), batch.images, batch.labels)


class NanBatch(_From):
  """Inserts a NaN into one batch, whose images become floats."""

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if not self.at(step, attempt):
      return batch
    images = batch.images.astype(np.float32) / 127.5 - 1
    images[0, 0, 0, 0, 0] = np.nan
    return batch._replace(images=images)


class RepeatedImage(_From):
  """Repeats one image, like a shard that contains nothing else."""

  _image: tuple[np.ndarray, np.ndarray] | None = None

  def batch(self, step: int, attempt: int, batch: Batch) -> Batch:
    """See `Disturbance`."""
    if not self.on(step, attempt):
      return batch
    if self._image is None:
      self._image = batch.images[:1, :1], batch.labels[:1, :1]
    image, label = self._image
    return Batch(
      np.broadcast_to(image, batch.images.shape).copy(),
      np.broadcast_to(label, batch.labels.shape).copy(),
    )


class FaultyWeights(_From):
  """Changes the state before every step, in one compiled function."""

  def __init__(
    self,
    scene: Scene,
    change: Callable[[GanState, Array, float], GanState],
  ) -> None:
    super().__init__(scene)
    self._change = jax.jit(
      lambda state, key: change(state, key, scene.size), donate_argnums=0
    )

  def state(self, step: int, attempt: int, state: GanState) -> GanState:
    """See `Disturbance`."""
    if not self.on(step, attempt):
      return state
    return self._change(state, jax.random.key(self.scene.seed * 65536 + step))


class Program(_From):
  """Replaces the compiled step by another one."""

  def __init__(self, scene: Scene, name: str) -> None:
    super().__init__(scene)
    self._name = name

  def program(self, step: int, attempt: int, usual: Step) -> Step:
    """See `Disturbance`."""
    if not self.on(step, attempt):
      return usual
    return self.scene.programs[self._name]()


def _turn(state: GanState, names: tuple[str, ...], factor: float) -> GanState:
  dials = state.dials._asdict()
  turned = {name: dials[name] * np.float32(factor) for name in names}
  return state._replace(dials=state.dials._replace(**turned))


def _garbage(
  rng: np.random.Generator, images: np.ndarray, labels: np.ndarray
) -> Batch:
  noise = rng.integers(0, 256, images.shape, np.uint8)
  return Batch(noise, labels)


def _shuffled(
  rng: np.random.Generator, images: np.ndarray, labels: np.ndarray
) -> Batch:
  return Batch(images, rng.permuted(labels, axis=1))


def _eighth(
  rng: np.random.Generator, images: np.ndarray, labels: np.ndarray
) -> Batch:
  del rng
  count = max(1, labels.shape[1] // 8)
  rows = np.arange(labels.shape[1]) % count
  return Batch(images[:, rows], labels[:, rows])


def _shifted(
  rng: np.random.Generator, images: np.ndarray, labels: np.ndarray
) -> Batch:
  x, y = rng.integers(-1, 2, 2)
  return Batch(np.roll(images, (x, y), axis=(2, 3)), labels)


def _to_bf16(state: GanState, key: Array, size: float) -> GanState:
  del key, size

  def rounded(tree: PyTree) -> PyTree:
    return jax.tree.map(
      lambda x: (
        x.astype(jnp.bfloat16).astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x
      ),
      tree,
    )

  return state._replace(
    g=rounded(state.g), d=rounded(state.d), ema=rounded(state.ema)
  )


def _grow_layer(state: GanState, key: Array, size: float) -> GanState:
  """Multiplies the first kernel of G by `size` in every step."""
  del key
  leaves = jax.tree_util.tree_leaves_with_path(state.g.params)
  path = next(p for p, _ in leaves if "kernel" in jax.tree_util.keystr(p))
  params = jax.tree_util.tree_map_with_path(
    lambda p, x: x * size if p == path else x, state.g.params
  )
  return state._replace(g=state.g._replace(params=params))


def _spoil_ema(state: GanState, key: Array, size: float) -> GanState:
  """Adds noise to the average: `size` standard deviations of each leaf."""
  leaves, structure = jax.tree.flatten(state.ema.params)
  noisy = [
    x + size * jnp.std(x) * jax.random.normal(k, x.shape, x.dtype)
    for x, k in zip(leaves, jax.random.split(key, len(leaves)), strict=True)
  ]
  params = jax.tree.unflatten(structure, noisy)
  return state._replace(ema=state.ema._replace(params=params))


Make = Callable[[Scene], Disturbance]


def _dial(*names: str) -> Make:
  return lambda scene: Dial(scene, *names)


# By name: the constructor, the size in tuning drills, the size in test drills.
FAULTS: dict[str, tuple[Make, float, float]] = {
  "lr_g_10": (_dial("g_lr"), 8, 10),
  "lr_g_100": (_dial("g_lr"), 60, 100),
  "lr_d_10": (_dial("d_lr"), 8, 10),
  "lr_d_100": (_dial("d_lr"), 60, 100),
  "lr_both_10": (_dial("g_lr", "d_lr"), 8, 10),
  "lr_both_100": (_dial("g_lr", "d_lr"), 60, 100),
  "d_frozen": (_dial("d_lr"), 0, 0),
  "g_frozen": (_dial("g_lr"), 0, 0),
  "r1_only": (_dial("r2_gamma"), 0, 0),
  "no_penalty": (_dial("r1_gamma", "r2_gamma"), 0, 0),
  "nan_batch": (NanBatch, 1, 1),
  "garbage_images": (lambda s: FaultyReals(s, _garbage), 1, 1),
  "repeated_image": (RepeatedImage, 1, 1),
  "shuffled_labels": (lambda s: FaultyReals(s, _shuffled), 1, 1),
  "sigma_growth": (lambda s: FaultyWeights(s, _grow_layer), 1.03, 1.02),
  "bfloat16": (lambda s: FaultyWeights(s, _to_bf16), 1, 1),
  "beta2": (lambda s: Program(s, "beta2"), 1, 1),
  "ema_corrupted": (lambda s: FaultyWeights(s, _spoil_ema), 0.15, 0.1),
  "batch_eighth": (lambda s: FaultyReals(s, _eighth), 1, 1),
}

CONTROLS: dict[str, tuple[Make, float, float]] = {
  "undisturbed": (lambda scene: Disturbance(), 1, 1),
  "d_spikes": (DialPulses, 6, 5),
  "lr_kink": (_dial("g_lr", "d_lr"), 0.3, 0.5),
  "augmentation": (lambda s: FaultyReals(s, _shifted), 1, 1),
  "resume": (lambda scene: Disturbance(), 1, 1),
  "small_batch": (lambda scene: Disturbance(), 1, 1),
}


def make(name: str, scene: Scene) -> Disturbance:
  """Returns the disturbance of this name."""
  return (FAULTS | CONTROLS)[name][0](scene)
