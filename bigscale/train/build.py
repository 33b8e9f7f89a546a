"""Builds the jitted functions of a run from a spec and a mesh.

The training loop, the planner, the benchmarks and the tests all call `build`,
so plans and measurements apply to the program that trains.
"""

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigscale.models.make import make_model
from bigscale.models.norms import Moments
from bigscale.ops import precision
from bigscale.ops.images import to_uint8
from bigscale.parallel import compiler, multihost, sharding
from bigscale.parallel.mesh import AXES, check_batch
from bigscale.parallel.sharding import Placement
from bigscale.spec import RunSpec, require
from bigscale.train.probe import Probe
from bigscale.train.state import Average, GanState, init_state
from bigscale.train.step import Codes, GanStep, Scalars, generate
from bigscale.types import Array, Batch, BatchSplit, GanModel, PyTree


class Built(NamedTuple):
  """The jitted functions and abstract arrays of a run; nothing is allocated.

  Attributes:
    spec: spec of the run.
    mesh: mesh of the run.
    model: generator and discriminator.
    abstract_state: shapes, dtypes and shardings of the state.
    abstract_batch: shapes, dtypes and shardings of a batch.
    init: `init(seed) -> GanState`; `seed` is a numpy int32 and defaults to the
      spec's seed. Runs that differ only in their seed can share a `Built`.
    step: `step(state, batch) -> (state, scalars)`; donates the state. If the
      run's batch size has changed, the number of images shown before the step
      is a third argument (`GanStep`).
    abstract_heldout: shapes of the held-out images that `probe` takes.
    probe: `probe(state, batch, heldout) -> scalars`, the monitor's expensive
      probe of samples (`train/probe`).
    sample: `sample(ema, latents, labels) -> uint8 [B, H, W, C]`, replicated on
      every device.
    compiler_options: XLA options of `step`, `probe` and `sample`.
  """

  spec: RunSpec
  mesh: Mesh
  model: GanModel
  abstract_state: GanState
  abstract_batch: Batch
  init: Callable[..., GanState]
  step: Callable[..., tuple[GanState, Scalars]]
  abstract_heldout: Batch
  probe: Callable[[GanState, Batch, Batch], Scalars]
  sample: Callable[[Average, Array, Array], Array]
  compiler_options: Mapping[str, compiler.Value] = types.MappingProxyType({})


def build(spec: RunSpec, mesh: Mesh) -> Built:
  """Builds the functions of a run without compiling them.

  Raises:
    SpecError: if the batch size is not divisible by the number of devices, or
      the model family cannot build these networks.
  """
  check_batch(spec.global_batch_size, mesh)
  _check_microbatches(spec, mesh)
  platform = mesh.devices.flat[0].platform
  placement = Placement(
    mesh,
    spec.mesh.weights,
    spec.mesh.min_split_elements,
    spec.model.sharding_rules,
  )
  gather = functools.partial(
    sharding.gather_shards, may_scatter=placement.may_scatter
  )
  model = make_model(
    spec.model,
    platform,
    BatchSplit(AXES, mesh.size),
    gather if spec.mesh.weights == "fsdp" else None,
  )
  init = functools.partial(init_state, model, spec)
  shapes = jax.eval_shape(init, np.int32(0))
  shardings = placement.shardings(shapes)
  whole = sharding.replicated(mesh)
  probe = Probe(model, spec, placement)
  options = compiler.options(
    mesh.devices.flat[0], spec.operations.compiler_options
  )

  def sample(ema: Average, latents: Array, labels: Array) -> Array:
    codes = Codes(latents, labels)
    return to_uint8(generate(model, spec, ema, codes, placement))

  return Built(
    spec=spec,
    mesh=mesh,
    model=model,
    abstract_state=_with_shardings(shapes, shardings),
    abstract_batch=_abstract_batch(
      spec, mesh, (spec.batches_per_step, spec.global_batch_size)
    ),
    init=jax.jit(precision.exact(init), out_shardings=shardings),
    step=jax.jit(
      precision.exact(GanStep(model, spec, placement)),
      out_shardings=(shardings, whole),
      donate_argnums=0,
      compiler_options=options,
    ),
    abstract_heldout=_abstract_batch(spec, mesh, (1, probe.count)),
    probe=jax.jit(
      precision.exact(probe), out_shardings=whole, compiler_options=options
    ),
    sample=jax.jit(
      precision.exact(sample),
      out_shardings=whole,
      compiler_options=options,
    ),
    compiler_options=options,
  )


def compile_everywhere(built: Built, inputs: tuple[Any, ...]) -> None:
  """Compiles the step on all CPU processes before any of them runs it.

  Gloo, which connects CPU processes, times out after 30 seconds. On busy cores,
  compile times can differ by minutes between processes.

  Args:
    built: the run's functions.
    inputs: arguments of the step.
  """
  cpu = built.mesh.devices.flat[0].platform == "cpu"
  if cpu and jax.process_count() > 1:
    # The next call reuses the compiled program.
    built.step.lower(*inputs).compile()
    multihost.barrier("the step is compiled")


def _check_microbatches(spec: RunSpec, mesh: Mesh) -> None:
  """Raises `SpecError` unless microbatches divide each device's samples."""
  here = spec.global_batch_size // mesh.size
  parts = spec.microbatches_on(mesh.size)
  group = spec.model.batch_norm_group_size
  require(
    here % parts == 0,
    f"optim.microbatches={parts} does not divide the {here} samples on each of "
    f"{mesh.size} devices; use a divisor of {here}",
  )
  if not group:
    return
  require(
    parts == 1 or here // parts % group == 0,
    f"model.batch_norm_group_size={group} does not divide a microbatch of "
    f"{here // parts} samples on each device; with optim.microbatches={parts}, "
    f"a group cannot span devices. Use a divisor of {here // parts}",
  )
  Moments(group, BatchSplit(AXES, mesh.size)).samples(here // parts)


def _abstract_batch(
  spec: RunSpec, mesh: Mesh, leading: tuple[int, int]
) -> Batch:
  side, channels = spec.model.resolution, spec.model.image_channels
  where = sharding.batch_sharding(mesh)
  return Batch(
    images=jax.ShapeDtypeStruct(
      (*leading, side, side, channels), jnp.uint8, sharding=where
    ),
    labels=jax.ShapeDtypeStruct(leading, jnp.int32, sharding=where),
  )


def _with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    shapes,
    shardings,
  )
