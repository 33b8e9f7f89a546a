"""A run that rolls back once, in one or several processes.

`run` starts the processes. Usage: rollback.py FOLDER. Trains in FOLDER/run.
Each process writes its shards of the final state to INDEX.npz.
"""

import pathlib
import sys

import jax
import numpy as np

from bigscale.parallel import multihost
from bigscale.spec import from_config
from bigscale.train import loop
from tests import fast_compile
from tests.e2e import monitored
from tests.parallel.processes import run_processes


def run(
  folder: pathlib.Path, *, processes: int, devices: int
) -> list[dict[str, np.ndarray]]:
  """Returns the final state by path for each process."""
  run_processes(
    [__file__, str(folder)],
    processes,
    devices,
    timeout=500,
    environ={"XLA_FLAGS": fast_compile.FLAGS},
  )
  found = []
  for index in range(processes):
    with np.load(folder / f"{index}.npz") as arrays:
      found.append({name: arrays[name] for name in arrays.files})
  return found


def main() -> None:
  folder = pathlib.Path(sys.argv[1])
  jax.config.update("jax_enable_x64", True)
  multihost.initialize()
  config = monitored.config(
    action="rollback", rewind=3, interventions=("lower_lr", "older_d")
  )
  config.model.dtype = "float64"
  config.mesh.data = -1
  watched = monitored.Watched({0: monitored.FAULT})
  prepared = loop.Prepared(None, monitored.Scores(), watched)
  state = loop.train(
    from_config(config), folder / "run", prepared=prepared
  ).state
  arrays = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
  np.savez(folder / f"{jax.process_index()}.npz", **arrays)


if __name__ == "__main__":
  main()
