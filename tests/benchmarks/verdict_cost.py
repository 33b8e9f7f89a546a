r"""Measures what a row costs the verdict, and the size of its state.

  python -m tests.benchmarks.verdict_cost

Needs only Python and NumPy. The figures in docs/reference/monitor.md come from
this program.
"""

import json
import statistics
import time

import numpy as np

from bigscale.monitor.verdict import Verdict
from bigscale.spec.verdict import VerdictSpec

# Rows whose time is not counted, because the coarse scales are still empty.
_FIRST = 100
ROWS = 400


def columns(number: int) -> list[str]:
  """Returns names as a run has them: 13 of every step, and singular values."""
  every = [
    f"{p}/{x}" for p in "dg" for x in ("loss", "grad_norm", "weight_norm")
  ]
  every += ["g/update_norm", "d/update_norm", "d/r1", "d/r2", "ema/distance"]
  every += ["d/logit_heldout_gap", "g/diversity"]
  layers = [f"{'dg'[i % 2]}/sigma{i % 3}/{i}" for i in range(number - 13)]
  return every + layers


def main() -> None:
  """Prints the median processor time of a row, for three numbers of columns."""
  for number in (13, 57, 250):
    rng = np.random.default_rng(number)
    names, verdict = columns(number), Verdict(VerdictSpec())
    times = []
    for step in range(ROWS):
      values = np.exp(0.05 * rng.standard_normal(number)).tolist()
      row = dict(zip(names, values, strict=True))
      start = time.process_time()
      verdict.update(step, row)
      times.append(time.process_time() - start)
    size = len(json.dumps(verdict.get_state()))
    cost = 1e3 * statistics.median(times[_FIRST:])
    print(f"{number:4} columns: {cost:5.2f} ms, state {size / 1e6:.2f} MB")


if __name__ == "__main__":
  main()
