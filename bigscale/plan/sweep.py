"""Plans several topologies and modes, each in a separate process.

A separate process releases its memory at exit; a compilation takes gigabytes.
It also isolates the TPU compiler, which aborts its process on an internal
error.
"""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bigscale.plan.topology import parse
from bigscale.spec import RunSpec, SpecError, from_json, require, to_json

_MODES = ("replicated", "zero", "fsdp")


def with_mode(spec: RunSpec, mode: str) -> RunSpec:
  """Returns a spec with another sharding of the weights.

  Args:
    spec: spec of the run.
    mode: the mesh's `weights` and `fsdp`, as "replicated", "zero:16" or
      "fsdp:16".

  Raises:
    SpecError: the mode is unknown.
  """
  found = re.fullmatch(r"(\w+)(?::(\d+))?", mode.strip())
  require(
    found is not None and found[1] in _MODES,
    f"--mode={mode} is unknown; use replicated, or zero or fsdp with the "
    "number of devices that share the state, such as zero:16",
  )
  weights, fsdp = found[1], int(found[2] or 1)
  require(
    fsdp >= 1 and (weights == "replicated" or fsdp > 1),
    f"--mode={mode} must share the state among at least 2 devices; use, for "
    f"example, {weights}:16",
  )
  mesh = dataclasses.replace(spec.mesh, data=-1, fsdp=fsdp, weights=weights)
  return dataclasses.replace(spec, mesh=mesh)


def sweep(
  specs: Sequence[RunSpec],
  topologies: Sequence[str],
  effort: str,
  *,
  use_cache: bool,
) -> Iterator[dict[str, Any]]:
  """Plans every run on every topology.

  Args:
    specs: specs of the runs.
    topologies: names of the topologies.
    effort: effort of the compiler.
    use_cache: whether to return cached plans.

  Yields:
    A plan per run and topology, or its topology, mesh and `error` if it failed.
  """
  for name in topologies:
    for spec in specs:
      task = {
        "spec": to_json(spec),
        "topology": name,
        "effort": effort,
        "use_cache": use_cache,
      }
      done = subprocess.run(
        [sys.executable, "-m", "bigscale.plan.sweep"],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
      )
      try:
        yield json.loads(done.stdout.strip().splitlines()[-1])
      except (IndexError, ValueError):
        tail = (done.stderr.strip().splitlines() or ["no message"])[-1]
        yield {
          "topology": name,
          "mesh": to_json(spec)["mesh"],
          "error": f"exit code {done.returncode}: {tail}",
        }


def _run_task(task: dict[str, Any]) -> dict[str, Any]:
  """Makes one plan in a process of the sweep."""
  from bigscale.plan.make import make

  spec = from_json(task["spec"])
  try:
    topology = parse(task["topology"])
    return make(spec, topology, task["effort"], use_cache=task["use_cache"])
  except SpecError as error:
    return {
      "topology": task["topology"],
      "mesh": task["spec"]["mesh"],
      "error": str(error),
    }


if __name__ == "__main__":
  from bigscale.plan.topology import prepare

  prepare()
  print(json.dumps(_run_task(json.load(sys.stdin))))
