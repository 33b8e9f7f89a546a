"""Trains some steps of any run in one or several processes.

`run` starts the processes. Usage: training.py CASE.json OUT.npz. CASE contains
`config`, as for `from_config`, and `steps`. Process 0 writes `metrics/NAME`
[steps] and the final state as `state/PATH`, global arrays. With
model.dtype=float64, all arrays are float64.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bigscale.parallel import multihost
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.rows import to_global
from bigscale.parallel.sharding import batch_sharding, replicated
from bigscale.spec import from_config
from bigscale.train.build import build
from bigscale.train.loop import open_stream
from tests import fast_compile
from tests.parallel.processes import run_processes


def run(
  folder: pathlib.Path,
  config: Mapping[str, Any],
  steps: int,
  *,
  processes: int,
  devices: int,
  timeout: float = 400,
  xla_flags: str = fast_compile.FLAGS,
) -> dict[str, np.ndarray]:
  """Trains and returns metrics and final state by name.

  Args:
    folder: folder for input and output files.
    config: config of the run.
    steps: number of steps.
    processes: number of processes.
    devices: number of devices of each process.
    timeout: maximum seconds.
    xla_flags: compiler flags; "" for programs that run longer.
  """
  case, out = folder / "case.json", folder / f"{processes}x{devices}.npz"
  case.write_text(json.dumps({"config": config, "steps": steps}))
  run_processes(
    [__file__, str(case), str(out)],
    processes,
    devices,
    timeout=timeout,
    environ={"XLA_FLAGS": xla_flags},
  )
  with np.load(out) as arrays:
    return {name: arrays[name] for name in arrays.files}


def worst_difference(
  one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Returns the largest differences of metrics, weights and Adam's moments.

  They are relative to the maximum of each array. For moments, they are relative
  to the maximum of all moments: those of a bias before a batch norm are squares
  of rounding errors.
  """
  assert one.keys() == other.keys()
  worst = {"metrics": 0.0, "weights": 0.0, "moments": 0.0}
  moments = [name for name in one if "/optimizer/" in name]
  scale = max((np.abs(one[name]).max() for name in moments), default=1.0)
  for name, value in one.items():
    kind = "metrics" if name.startswith("metrics/") else "weights"
    size = max(np.abs(value).max(), 1e-12)
    if name in moments:
      kind, size = "moments", scale
    difference = float(np.abs(value - other[name]).max() / size)
    worst[kind] = max(worst[kind], difference)
  return worst


def main() -> None:
  case, out = map(pathlib.Path, sys.argv[1:])
  asked = json.loads(case.read_text())
  spec = from_config(asked["config"])
  if spec.model.dtype == "float64":
    jax.config.update("jax_enable_x64", True)
  multihost.initialize()
  built = build(spec, make_mesh(spec.mesh))
  stream = open_stream(built)
  state, rows = built.init(), []
  for _ in range(asked["steps"]):
    batch = to_global(next(stream), batch_sharding(built.mesh))
    state, scalars = built.step(state, batch)
    rows.append(jax.device_get(scalars))
  stream.close()
  whole = jax.jit(lambda x: x, out_shardings=replicated(built.mesh))(state)
  arrays = {
    f"metrics/{name}": np.stack([row[name] for row in rows]) for name in rows[0]
  }
  for path, leaf in jax.tree_util.tree_leaves_with_path(whole):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    arrays[f"state/{name}"] = np.asarray(leaf)
  if multihost.is_main():
    np.savez(out, **arrays)
  # A thread that queries the other processes at exit would abort Python.
  multihost.watch().stop()


if __name__ == "__main__":
  main()
