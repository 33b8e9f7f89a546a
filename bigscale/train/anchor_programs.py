"""The jitted functions that measure images and weights for the anchor."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigscale.metrics.features import Features
from bigscale.monitor.anchors import measure
from bigscale.monitor.anchors.data import Described
from bigscale.ops import precision
from bigscale.ops.images import to_uint8
from bigscale.parallel import compiler, multihost
from bigscale.parallel.sharding import (
  Placement,
  replicated,
  sample_sharding,
)
from bigscale.spec.scores import CLASSIFIER
from bigscale.train.build import Built
from bigscale.train.state import GanState
from bigscale.types import Array, Batch, PyTree

# Number of directions that features are projected to.
_FEATURES = 64


class Programs(NamedTuple):
  """Jitted functions. All results are replicated.

  Attributes:
    pick: `pick(batch) -> (images, labels, hashes)`, `count` evenly spaced
      images and their labels, and hashes [K * B, 2] of all images.
    replicate: `replicate(batch) -> (images, labels)` of a batch [1, count].
    describe: `describe(variables, images, labels) -> Described`.
    sketch: `sketch(state)`, by `g`, `d` and `average` the pair of
      `measure.sketch`.
    count: number of images that `describe` takes.
    in_turn: returns its argument, after waiting for it on CPU processes.
      Collectives of independent programs must not run at the same time there
      (`Placement.loops_may_send`).
  """

  pick: Callable[[Batch], tuple[Array, Array, Array]]
  replicate: Callable[[Batch], tuple[Array, Array]]
  describe: Callable[[PyTree, Array, Array], Described]
  sketch: Callable[[GanState], dict[str, tuple[Array, Array]]]
  count: int
  in_turn: Callable[[PyTree], PyTree]


def make_programs(built: Built, network: Features | None) -> Programs:
  """Returns the functions without compiling them.

  Runs with the same network and batch size share them.

  Args:
    built: functions of the run.
    network: network whose features are compared, on the run's mesh. None
      compares only pixels.
  """
  return _programs(
    built.mesh,
    built.abstract_heldout.images.shape[1],
    built.spec.model.num_classes,
    network,
    tuple(built.compiler_options.items()),
  )


@functools.lru_cache(maxsize=4)
def _programs(
  mesh: Mesh,
  count: int,
  classes: int,
  network: Features | None,
  compiler_options: tuple[tuple[str, compiler.Value], ...],
) -> Programs:
  classifies = (
    network is not None
    and network.name == CLASSIFIER
    and network.num_classes == classes > 1
  )
  by_sample = sample_sharding(mesh)

  def pick(batch: Batch) -> tuple[Array, Array, Array]:
    images = batch.images
    if images.dtype != jnp.uint8:
      images = to_uint8(images)
    every = images.shape[1] // count
    return (
      images[0, ::every],
      batch.labels[0, ::every],
      measure.hashes(images).reshape(-1, 2),
    )

  def describe(variables: PyTree, images: Array, labels: Array) -> Described:
    images, labels = jax.lax.with_sharding_constraint(
      (images, labels), by_sample
    )
    pixels = measure.pixel_columns(images)
    features, surprisal = jnp.zeros((count, 0)), jnp.zeros((0,))
    if network is not None:
      features, odds = network.outputs(variables, images)
      features = measure.project(features, _FEATURES)
      if classifies:
        own = jnp.take_along_axis(odds, labels[:, None], axis=1, mode="clip")
        surprisal = -jnp.log(own[:, 0] + 1e-6)
    return Described(pixels, features, surprisal, labels)

  def sketch(state: GanState) -> dict[str, tuple[Array, Array]]:
    # Spectra only follow the weights, so they are left out.
    trees = {
      "g": (state.g.params, state.g.batch_stats),
      "d": state.d.params,
      "average": (state.ema.params, state.ema.batch_stats),
    }
    return {name: measure.sketch(tree) for name, tree in trees.items()}

  whole = replicated(mesh)

  def jitted(function: Callable, **settings: Any) -> Callable:
    return jax.jit(
      precision.exact(function),
      **settings,
      out_shardings=whole,
      compiler_options=dict(compiler_options),
    )

  return Programs(
    pick=jitted(pick),
    replicate=jitted(lambda batch: (batch.images[0], batch.labels[0])),
    # One program for reals and samples.
    describe=jitted(describe, in_shardings=whole),
    sketch=jitted(sketch),
    count=count,
    in_turn=(
      jax.block_until_ready if Placement(mesh).uses_gloo else lambda tree: tree
    ),
  )


def compile_in_processes(
  programs: Programs, built: Built, variables: PyTree
) -> None:
  """Compiles the functions on all CPU processes before any of them runs one.

  Gloo times out if a process waits for another one that compiles
  (`build.compile_everywhere`).
  """
  if not Placement(built.mesh).uses_gloo:
    return
  model, count = built.spec.model, programs.count
  images = np.zeros(
    (count, model.resolution, model.resolution, model.image_channels), np.uint8
  )
  labels = np.zeros(count, np.int32)
  z = np.zeros((count, model.latent_dim), np.float32)
  state = built.abstract_state
  programs.pick.lower(built.abstract_batch).compile()
  programs.replicate.lower(built.abstract_heldout).compile()
  programs.describe.lower(variables, images, labels).compile()
  programs.sketch.lower(state).compile()
  built.sample.lower(state.ema, z, labels).compile()
  multihost.barrier("the anchor's programs are compiled")


def place_variables(network: Features | None, mesh: Mesh) -> PyTree:
  """Returns a network's variables, replicated on the run's mesh.

  The network may lie on another mesh, that of the scores.
  """
  if network is None:
    return {}
  return jax.device_put(jax.device_get(network.variables), replicated(mesh))
