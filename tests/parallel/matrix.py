"""Tiny trainings one after another, in several processes: `run` starts them.

matrix.py CASES.json OUT.npz: CASES lists fields of `tiny_gans.Case`. Process 0
writes `NAME/INDEX`, the arrays of `arrays`, for every case.
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
  """By name of the case, what `arrays` gives for it.

  Args:
    folder: for the files passed.
    cases: meshes of which are of all devices.
    processes: to train them in.
    devices: of each process.
    timeout: seconds for all.
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
  """Scalars of all steps, what was learned, moments on the network's scale."""
  rows, state = tiny_gans.trained(case, STEPS)
  moments = jax.tree.leaves((state.g.optimizer, state.d.optimizer))
  scale = max(float(np.max(np.abs(x))) for x in moments)
  # A one beside them: differences are relative to the largest entry.
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
