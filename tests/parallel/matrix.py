"""Runs tiny trainings one after another in several processes.

`run` starts the processes. Usage: matrix.py CASES.json OUT.npz. CASES contains
fields of `tiny_gans.Case`. For each case, process 0 writes the result of
`arrays` to `NAME/INDEX`.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import jax
import numpy as np

from bigscale.parallel import multihost
from tests import fast_compile
from tests.parallel import tiny_gans
from tests.parallel.processes import run_processes
from tests.parallel.tiny_gans import Case

STEPS = 3


def run(
  folder: pathlib.Path,
  cases: Sequence[Case],
  *,
  processes: int,
  devices: int,
  timeout: float,
) -> dict[str, list[np.ndarray]]:
  """Returns the result of `arrays` by name of the case.

  Args:
    folder: folder for input and output files.
    cases: cases whose meshes have all devices.
    processes: number of processes.
    devices: number of devices of each process.
    timeout: maximum seconds for all cases.
  """
  asked, out = folder / "cases.json", folder / "out.npz"
  asked.write_text(json.dumps([case._asdict() for case in cases]))
  run_processes(
    [__file__, str(asked), str(out)],
    processes,
    devices,
    timeout=timeout,
    environ={"XLA_FLAGS": fast_compile.FLAGS},
  )
  found: dict[str, list[np.ndarray]] = {}
  with np.load(out) as saved:
    for name in saved.files:
      found.setdefault(name.rpartition("/")[0], []).append(saved[name])
  return found


def arrays(case: Case) -> list[np.ndarray]:
  """Returns scalars, learned arrays, and moments scaled by the network's."""
  rows, state = tiny_gans.trained(case, STEPS)
  moments = jax.tree.leaves((state.g.optimizer, state.d.optimizer))
  scale = max(float(np.max(np.abs(x))) for x in moments)
  # The appended 1.0 makes differences relative to the network's scale.
  scaled = np.concatenate([np.ravel(x) / scale for x in moments] + [[1.0]])
  leaves = jax.tree.leaves((rows, tiny_gans.learned(state)))
  return [np.asarray(leaf) for leaf in leaves] + [scaled]


def main() -> None:
  asked, out = map(pathlib.Path, sys.argv[1:])
  multihost.initialize()
  saved = {}
  for fields in json.loads(asked.read_text()):
    case = Case(**fields)._replace(mesh=tuple(fields["mesh"]))
    saved |= {f"{case.name}/{i}": x for i, x in enumerate(arrays(case))}
  if multihost.is_main():
    np.savez(out, **saved)


if __name__ == "__main__":
  main()
