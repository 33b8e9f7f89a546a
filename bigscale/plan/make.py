"""A plan from the cache, or made and kept there."""

from typing import Any

from bigscale.plan import cache, compile
from bigscale.plan.topology import Topology, require_compiler
from bigscale.spec import RunSpec


def make(
  spec: RunSpec, topology: Topology, effort: str, *, use_cache: bool = True
) -> dict[str, Any]:
  """Plans one run; see `compile.plan`.

  Args:
    spec: of the run.
    topology: to plan for.
    effort: of the compiler.
    use_cache: whether one made before may be returned; a new one is kept in
      any case.

  Raises:
    SpecError: see `compile.plan`.
  """
  require_compiler()
  path = cache.path_of(spec, topology, effort, compile.versions())
  plan = cache.read(path) if use_cache else None
  if plan is None:
    plan = compile.plan(spec, topology, effort)
    cache.write(path, plan)
  return plan
