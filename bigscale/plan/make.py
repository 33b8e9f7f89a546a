"""Makes plans and caches them in files.

The name of a plan's file contains a fingerprint of everything that determines
the plan: spec, topology, effort, versions, XLA's environment variables, and the
source code of this package. A change of code therefore invalidates the cache. A
plan is made again if its file cannot be read. If the file cannot be written,
the plan is returned without caching it.
"""

import hashlib
import json
import logging
import os
import pathlib
from typing import Any

from bigscale import cache_folder, temporary
from bigscale.parallel import compiler
from bigscale.plan import compile
from bigscale.plan.topology import Topology, require_compiler
from bigscale.spec import RunSpec, to_json

_log = logging.getLogger(__name__)


def make(
  spec: RunSpec, topology: Topology, effort: str, *, use_cache: bool = True
) -> dict[str, Any]:
  """Returns the plan of a run, from the cache if possible; see `compile.plan`.

  Args:
    spec: spec of the run.
    topology: topology to plan for.
    effort: effort of the compiler.
    use_cache: whether to return a cached plan. A new plan is always cached.

  Raises:
    SpecError: see `compile.plan`.
  """
  require_compiler()
  path = path_of(spec, topology, effort, compiler.versions())
  plan = read(path) if use_cache else None
  if plan is None:
    plan = compile.plan(spec, topology, effort)
    write(path, plan)
  return plan


def folder() -> pathlib.Path:
  """Returns the cache: $BIGSCALE_CACHE/plans, or ~/.cache/bigscale/plans."""
  return pathlib.Path(cache_folder.directory()) / "plans"


def path_of(
  spec: RunSpec, topology: Topology, effort: str, versions: dict[str, str]
) -> pathlib.Path:
  """Returns the path of a cached plan.

  Args:
    spec: spec of the run.
    topology: topology of the plan.
    effort: effort of the compiler.
    versions: versions of the library, JAX and libtpu.
  """
  environment = [os.environ.get(name, "") for name in compiler.ENVIRONMENT]
  content = [
    to_json(spec),
    topology.name,
    effort,
    versions,
    environment,
    compiler.sources(),
  ]
  text = json.dumps(content, sort_keys=True)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
  label = topology.name.replace(":", "_")
  return folder() / f"{spec.model.name}-{label}-{effort}-{fingerprint}.json"


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """Returns the plan in a file, or None if the file cannot be read."""
  try:
    plan = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    _log.warning("cannot read the plan in %s (%s); planning again", path, error)
    return None
  return plan if isinstance(plan, dict) and "fits" in plan else None


def write(path: pathlib.Path, plan: dict[str, Any]) -> bool:
  """Writes a plan atomically; returns False and logs a warning on failure."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.replacing(path) as partial:
      partial.write_text(json.dumps(plan))
  except OSError as error:
    _log.warning(
      "cannot write the plan to %s (%s); set %s to a writable directory",
      path,
      error.strerror or error,
      cache_folder.ENVIRONMENT,
    )
    return False
  return True
