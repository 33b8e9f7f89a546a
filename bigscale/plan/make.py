"""A plan from the cache, or made and kept there.

A plan's file is named by a fingerprint of all that decides it: spec, topology,
effort, versions, what the environment tells XLA, and the text of this package,
so that no change of code leaves an old plan behind. A file that cannot be read
is planned again, and one that cannot be written is done without.
"""

import functools
import hashlib
import json
import logging
import os
import pathlib
from typing import Any

import bigscale
from bigscale import cache_folder, temporary
from bigscale.parallel import compiler
from bigscale.plan import compile
from bigscale.plan.topology import Topology, require_compiler
from bigscale.spec import RunSpec, to_json

_log = logging.getLogger(__name__)


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
  path = path_of(spec, topology, effort, compile.versions())
  plan = read(path) if use_cache else None
  if plan is None:
    plan = compile.plan(spec, topology, effort)
    write(path, plan)
  return plan


def folder() -> pathlib.Path:
  """$BIGSCALE_CACHE/plans, or ~/.cache/bigscale/plans."""
  return pathlib.Path(cache_folder.directory()) / "plans"


def path_of(
  spec: RunSpec, topology: Topology, effort: str, versions: dict[str, str]
) -> pathlib.Path:
  """Where a plan is kept.

  Args:
    spec: of the run.
    topology: planned for.
    effort: of the compiler.
    versions: of the library, JAX and libtpu.
  """
  told = [os.environ.get(name, "") for name in compiler.ENVIRONMENT]
  content = [to_json(spec), topology.name, effort, versions, told, _sources()]
  text = json.dumps(content, sort_keys=True)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
  label = topology.name.replace(":", "_")
  return folder() / f"{spec.model.name}-{label}-{effort}-{fingerprint}.json"


def read(path: pathlib.Path) -> dict[str, Any] | None:
  """The plan of a file, or None if there is none that can be read."""
  try:
    plan = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError) as error:
    _log.warning("cannot read %s (%s); planning again", path, error)
    return None
  return plan if isinstance(plan, dict) and "fits" in plan else None


def write(path: pathlib.Path, plan: dict[str, Any]) -> bool:
  """Writes a plan whole, or not at all and says so."""
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.replacing(path) as partial:
      partial.write_text(json.dumps(plan))
  except OSError as error:
    _log.warning(
      "cannot keep the plan in %s (%s); set %s to a writable directory",
      path,
      error.strerror or error,
      cache_folder.ENVIRONMENT,
    )
    return False
  return True


@functools.cache
def _sources() -> str:
  """A fingerprint of the package's code."""
  root = pathlib.Path(bigscale.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(path.relative_to(root).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()
