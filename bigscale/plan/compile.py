"""Compiles a run's step for a TPU slice and analyzes the program.

`optimal_seconds` of XLA's cost analysis is not used: it counts every loop body
once and subtracts a second for every custom call.
"""

import math
import time
from typing import Any

import jax
from jax.sharding import Mesh

from bigscale.parallel import compiler
from bigscale.parallel.mesh import make_mesh
from bigscale.plan import (
  advice,
  cost,
  hlo,
  measure,
  memory,
  precision,
  timing,
)
from bigscale.plan import topology as topologies
from bigscale.plan.topology import Topology
from bigscale.spec import Precision, RunSpec, choose_preset
from bigscale.train.build import Built, build
from bigscale.types import PyTree

# XLA's ExecutionOptions.EffortLevel: EFFORT_UNKNOWN, EFFORT_O1.
EFFORTS = {"default": 0, "O1": 19}
O1_CYCLES = (
  "at effort O1, cycles are about 75% higher than at default effort; memory "
  "and communication are accurate, but compare times only with other O1 plans"
)

Plan = dict[str, Any]


def plan(spec: RunSpec, topology: Topology, effort: str = "default") -> Plan:
  """Plans one run on one topology.

  Args:
    spec: spec of the run.
    topology: topology to compile for.
    effort: key of `EFFORTS`; "O1" compiles about four times faster.

  Returns:
    The plan as JSON values; see `report`.

  Raises:
    SpecError: the mesh or the batch does not fit the devices, libtpu is not
      installed or does not know the slice, or a float32 product of the program
      has another precision than the spec.
  """
  choose_preset(EFFORTS, effort, "--effort")
  mesh = make_mesh(spec.mesh, devices=topologies.devices(topology))
  built = build(spec, mesh)
  start = time.perf_counter()
  lowered = built.step.lower(built.abstract_state, built.abstract_batch)
  found = program(
    lowered,
    topology,
    mesh,
    effort,
    _hints(spec, mesh.size),
    spec.model.precision,
  )
  seconds = time.perf_counter() - start
  found |= {
    "topology": topology.name,
    "devices": mesh.size,
    "mesh": {**mesh.shape, "weights": spec.mesh.weights},
    "global_batch_size": spec.global_batch_size,
    "model": f"{spec.model.name} {spec.model.resolution} px",
    "effort": effort,
    "precision": spec.model.precision,
    "compiler_options": dict(built.compiler_options),
    "parameters": _parameters(built),
    "compile_seconds": seconds,
    "versions": compiler.versions(),
  }
  found["memory"]["state"] = memory.bytes_per_device(built.abstract_state)
  if found["estimated_step_seconds"]:
    found["images_per_second"] = (
      spec.images_per_step / found["estimated_step_seconds"]
    )
  found["advice"] = advice.advise(found, spec, topology)
  return found


def program(
  lowered: jax.stages.Lowered,
  topology: Topology,
  mesh: Mesh,
  effort: str,
  hints: dict[str, int] | None = None,
  stated: Precision = "highest",
) -> Plan:
  """Compiles and analyzes one program.

  Args:
    lowered: lowered program.
    topology: topology to compile for.
    mesh: mesh of the program's devices.
    effort: key of `EFFORTS`.
    hints: trip counts by scope, for loops whose count is not in the text.
    stated: expected precision of the networks' float32 products.

  Returns:
    The entries of a plan that depend only on the program.

  Raises:
    SpecError: a float32 product has another precision than expected.
  """
  options = {"optimization_level": EFFORTS[effort]}
  try:
    compiled = lowered.compile(compiler_options=options)
  except jax.errors.JaxRuntimeError as error:
    refusal = memory.of_refusal(str(error))
    if refusal is None:
      raise
    return _too_large(refusal)
  used = memory.of_compiled(compiled)
  partitions = mesh.size // topology.slices
  work = measure.measure(hlo.parse(compiled.as_text()), partitions, hints)
  precision.check(work.float32, stated)
  network = cost.Interconnect(
    topology, cost.places(mesh.devices.flatten().tolist(), topology)
  )
  limit = topology.chip.hbm_bytes
  return {
    "fits": used.peak <= limit,
    "hbm_bytes_per_device": used.peak,
    "hbm_limit_bytes": limit,
    "memory": used._asdict(),
    **timing.times(work, network, _flops(compiled, work)),
    "float32_products": precision.summary(work.float32, topology.chip.clock_hz),
    "uncosted": dict(work.uncosted),
    "warnings": [
      *([O1_CYCLES] if effort == "O1" else []),
      *work.warnings,
      *network.warnings,
    ],
  }


def _too_large(refusal: memory.OutOfMemory) -> Plan:
  return {
    "fits": False,
    "hbm_bytes_per_device": refusal.needed,
    "hbm_limit_bytes": refusal.available,
    "hbm_shortfall_bytes": refusal.needed - refusal.available,
    "memory": memory.Memory(peak=refusal.needed)._asdict(),
    "flops_per_step_per_device": None,
    "estimated_step_seconds": None,
    "estimated_mfu": None,
    "collectives": {},
    "float32_products": {},
    "warnings": [],
  }


def _flops(compiled: jax.stages.Compiled, work: measure.Work) -> float:
  """Returns XLA's FLOP count plus the products of further loop iterations.

  It counts the compiled program, including rematerialization and the zeros of
  merged groups.
  """
  analysis = compiled.cost_analysis() or {}
  return analysis.get("flops", 0.0) + work.flops - work.flops_once


def _parameters(built: Built) -> dict[str, int]:
  def count(tree: PyTree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

  state = built.abstract_state
  return {"g": count(state.g.params), "d": count(state.d.params)}


def _hints(spec: RunSpec, devices: int) -> dict[str, int]:
  """Returns trip counts by scope, for loops whose count is not in the text."""
  return {
    "d_steps": spec.optim.d_steps,
    "microbatches": spec.microbatches_on(devices),
  }
