r"""Measures the verdict on synthetic signals: false alarms, delays, invariance.

  python -m tests.benchmarks.verdict_study --table=null
  python -m tests.benchmarks.verdict_study --table=collapse --runs=20
  python -m tests.benchmarks.verdict_study --table=invariance

Needs only Python and NumPy. A table takes minutes on one core. The tables of
docs/reference/monitor.md come from this program.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator

import numpy as np

from bigscale.monitor.verdict import Verdict
from bigscale.spec.verdict import VerdictSpec

ROWS = 5000
# Number of rows of the warm-up, which are not judged.
WARMUP = 200


def ar(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
  """Returns stationary AR(1) noise of variance 1."""
  noise = rng.standard_normal(n) * math.sqrt(1 - phi**2)
  x = np.empty(n)
  x[0] = rng.standard_normal()
  for i in range(1, n):
    x[i] = phi * x[i - 1] + noise[i]
  return x


def _garch(rng: np.random.Generator, n: int) -> np.ndarray:
  x, variance = np.empty(n), 1.0
  for i in range(n):
    x[i] = math.sqrt(variance) * rng.standard_normal()
    variance = 0.05 + 0.1 * x[i] ** 2 + 0.85 * variance
  return x


def _jumps(rng: np.random.Generator, n: int) -> np.ndarray:
  scale = np.repeat(np.exp(rng.uniform(-0.8, 0.8, n // 500 + 1)), 500)[:n]
  return scale * rng.standard_normal(n)


def _spikes(rng: np.random.Generator, n: int) -> np.ndarray:
  x = rng.standard_normal(n)
  for at in rng.integers(0, n - 5, n // 200):
    x[at : at + rng.integers(1, 5)] += rng.uniform(5, 30)
  return x


Noise = Callable[[np.random.Generator, int], np.ndarray]

NULL: dict[str, tuple[str, Noise]] = {
  "white": ("loss", lambda r, n: r.standard_normal(n)),
  **{
    f"AR {phi}": ("loss", lambda r, n, phi=phi: ar(r, n, phi))
    for phi in (0.3, 0.6, 0.9, 0.95, 0.99)
  },
  "Student t3": ("loss", lambda r, n: r.standard_t(3, n)),
  "random walk": ("loss", lambda r, n: np.cumsum(r.standard_normal(n))),
  "drift": ("loss", lambda r, n: 0.01 * np.arange(n) + r.standard_normal(n)),
  "variance jumps": ("loss", _jumps),
  "spikes": ("loss", _spikes),
  "GARCH": ("loss", _garch),
  "white, unnamed": ("x1", lambda r, n: r.standard_normal(n)),
  "AR 0.9, unnamed": ("x1", lambda r, n: ar(r, n, 0.9)),
  "sigma0, t^0.5": (
    "g/sigma0/a",
    lambda r, n: np.sqrt(np.arange(n) + 50) * np.exp(0.02 * ar(r, n, 0.5)),
  ),
  "sigma0, log t": (
    "g/sigma0/a",
    lambda r, n: np.log(np.arange(n) + 20) * np.exp(0.02 * ar(r, n, 0.9)),
  ),
  "sigma0, linear": (
    "g/sigma0/a",
    lambda r, n: (1 + 4 * np.arange(n) / n) * np.exp(0.05 * ar(r, n, 0.9)),
  ),
  "sigma0, walk": (
    "g/sigma0/a",
    lambda r, n: 2 * np.exp(0.003 * np.cumsum(r.standard_normal(n))),
  ),
  "samples, AR 0.5": (
    "g/diversity",
    lambda r, n: 0.8 * np.exp(0.08 * ar(r, n, 0.5)),
  ),
  "gradient, lognormal": (
    "g/grad_norm",
    lambda r, n: np.exp(0.7 * ar(r, n, 0.3)),
  ),
}


def alarms(rows: Iterator[tuple[int, dict[str, float]]]) -> list:
  """Returns the decisions at level `rollback`."""
  verdict = Verdict(VerdictSpec(warmup=WARMUP))
  decisions = [verdict.update(*row) for row in rows]
  return [d for d in decisions if d.new and d.level == "rollback"]


def _rows(columns: dict[str, np.ndarray], every: int = 1, first: int = 0):
  n = len(next(iter(columns.values())))
  for i in range(0, n, every):
    yield first + i, {name: float(x[i]) for name, x in columns.items()}


def null(runs: int, seed: int) -> None:
  """Prints false requests for a rollback in signals without a change."""
  total = rows = 0
  for index, (name, (column, make)) in enumerate(NULL.items()):
    count = 0
    for run in range(runs):
      rng = np.random.default_rng((seed, index, run))
      count += len(alarms(_rows({column: make(rng, ROWS)})))
    total, rows = total + count, rows + runs * ROWS
    print(f"{name:22} {count:4} in {runs * ROWS:8} rows")
  print(
    f"{'all':22} {total:4} in {rows:8} rows, {1e4 * total / rows:.2f} in 10,000"
  )
  count = 0
  for run in range(runs):
    rng = np.random.default_rng((seed, 99, run))
    many = {f"d/loss{i}": ar(rng, ROWS, 0.5 * (i % 2)) for i in range(10)}
    many |= {
      f"g/sigma0/{i}": 2 * np.exp(0.03 * ar(rng, ROWS, 0.9)) for i in range(20)
    }
    count += len(alarms(_rows(many)))
  print(f"{'30 signals at once':22} {count:4} in {runs * ROWS:8} rows")


# Returns a level that diverges as s, the elapsed fraction of the collapse, goes
# to 1.
def _power(power: float) -> Callable[[np.ndarray], np.ndarray]:
  return lambda s: (1 - 0.98 * s) ** -power


# By name: the level as a function of s, number of rows of the collapse, size of
# the noise, its AR(1) coefficient.
COLLAPSES: dict[
  str, tuple[Callable[[np.ndarray], np.ndarray], int, float, float]
] = {
  "1/(tc-t), 0.5%": (_power(1), 10, 0.02, 0.5),
  "1/(tc-t), 1%": (_power(1), 20, 0.02, 0.5),
  "1/(tc-t), 3%": (_power(1), 60, 0.02, 0.5),
  "(tc-t)^-1/2, 3%": (_power(0.5), 90, 0.02, 0.9),
  "(tc-t)^-2, 3%": (_power(2), 60, 0.05, 0.9),
  "exp(t^2), 3%": (lambda s: np.exp(3 * s**2), 60, 0.02, 0.5),
  "1/(tc-t), 3%, noisy": (_power(1), 60, 0.10, 0.9),
}
LENGTH = 2000


def sigma_collapse(
  name: str, run: int, seed: int
) -> tuple[np.ndarray, int, int]:
  """Returns a trace of sigma0, its onset, and the row at which it doubles."""
  form, last, noise, phi = COLLAPSES[name]
  rng = np.random.default_rng((seed, run, last))
  level = 2 + 0.5 * np.arange(LENGTH) / LENGTH
  at = LENGTH - last
  change = form(np.arange(1, last + 1) / last)
  level[at:] *= change
  doubled = at + int(np.argmax(change >= 2))
  return level * np.exp(noise * ar(rng, LENGTH, phi)), at, doubled


def _score(found: list[tuple[list, int, int]], spacing: int = 1) -> str:
  seen = [
    (a[0], at, doubled) for a, at, doubled in found if a and a[0].step >= at
  ]
  early = sum(bool(a) and a[0].step < at for a, at, _ in found)
  before = sum(d.step < doubled for d, _, doubled in seen)
  if not seen:
    return f"{0:4} {0:6} {early:6}"
  delay = statistics.median((d.step - at) / spacing for d, at, _ in seen)
  error = statistics.median(abs(d.onset - at) / spacing for d, at, _ in seen)
  return f"{len(seen):4} {before:6} {early:6} {delay:7.0f} {error:6.0f}"


def statistical(
  name: str, run: int, seed: int
) -> tuple[dict[str, np.ndarray], int]:
  """Returns columns with a change of level, and its onset."""
  rng = np.random.default_rng((seed, run, 7))
  at, n = 1500, LENGTH
  shift = np.zeros(n)
  if name.startswith("step of 5"):
    shift[at:] = 5
  elif name.startswith("ramp"):
    shift[at:] = 0.05 * np.arange(n - at)
  phi = 0.9 if "AR" in name else 0.0
  columns = {"d/loss": ar(rng, n, phi) + shift}
  if "2 signals" in name:
    columns["g/loss"] = ar(rng, n, phi) - shift
  if "1 of 30" in name:
    columns |= {f"g/loss{i}": ar(rng, n, 0) for i in range(29)}
  return columns, at


STATISTICAL = (
  "step of 5 sigma, white",
  "step of 5 sigma, 1 of 30",
  "step of 5 sigma, AR 0.9",
  "ramp of 0.05 sigma a row, 2 signals",
)


def collapse(runs: int, seed: int) -> None:
  """Prints the number of detected collapses and their delays."""
  print(f"{'case':36} seen before  early   delay  onset")
  for name in COLLAPSES:
    found = []
    for run in range(runs):
      x, at, doubled = sigma_collapse(name, run, seed)
      found.append((alarms(_rows({"g/sigma0/a": x})), at, doubled))
    print(f"{name:36} {_score(found)}")
  for name in STATISTICAL:
    found = []
    for run in range(runs):
      columns, at = statistical(name, run, seed)
      found.append((alarms(_rows(columns)), at, LENGTH))
    print(f"{name:36} {_score(found)}")


def biggan_like(run: int, seed: int) -> tuple[np.ndarray, int]:
  """Returns sigma0 like a BigGAN run's: uneven growth, then a divergence."""
  rng = np.random.default_rng((seed, run, 1200))
  n = 1200
  pace = np.repeat(rng.uniform(0.2, 1.8, 12), n // 12) / n
  pace[int(0.85 * n) :] *= 1.5
  level = 1.5 * np.exp(np.cumsum(pace))
  last = int(rng.integers(12, 36))
  level[-last:] *= _power(1)(np.arange(1, last + 1) / last)
  return level * np.exp(0.015 * ar(rng, n, 0.7)), n - last


def invariance(runs: int, seed: int) -> None:
  """Prints alarms for BigGAN-like collapses under transformations."""
  disguises = {
    "as it is": {},
    "x0.001": {"scale": 1e-3},
    "x1000": {"scale": 1e3},
    "steps +1e6": {"first": 10**6},
    "named G_linear_sv0": {"column": "G_linear_sv0"},
    "unnamed": {"column": "c7"},
    "2x sparser": {"every": 2},
    "5x sparser": {"every": 5},
    "10x sparser": {"every": 10},
    "begins 100 rows before": {"tail": 100},
    "noise of 1% added": {"noise": 0.01},
    "10 noise columns added": {"noise_columns": 10},
    "a constant column added": {"constant": True},
  }
  print(
    f"{'disguise':26} seen before  early   delay  onset (rows of the original)"
  )
  for name, how in disguises.items():
    found = []
    for run in range(runs):
      x, at = biggan_like(run, seed)
      doubled = at + int(np.argmax(x[at:] >= 2 * np.median(x[at - 20 : at])))
      rng = np.random.default_rng((seed, run, 5))
      x = (
        x
        * how.get("scale", 1)
        * np.exp(how.get("noise", 0) * ar(rng, len(x), 0))
      )
      columns = {how.get("column", "g/sigma0/a"): x}
      for i in range(how.get("noise_columns", 0)):
        columns[f"noise{i}"] = rng.standard_normal(len(x))
      if "constant" in how:
        columns["constant"] = np.full(len(x), 3.0)
      rows = list(_rows(columns, how.get("every", 1)))
      rows = [(s, r) for s, r in rows if s >= at - how.get("tail", 10**9)]
      first = how.get("first", 0)
      heard = alarms((first + s, r) for s, r in rows)
      heard = [
        d._replace(step=d.step - first, onset=d.onset - first) for d in heard
      ]
      found.append((heard, at, doubled))
    print(f"{name:26} {_score(found)}")


def main() -> None:
  """Prints the selected table."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  tables = {"null": null, "collapse": collapse, "invariance": invariance}
  parser.add_argument("--table", choices=tables, required=True)
  parser.add_argument("--runs", type=int, default=5)
  parser.add_argument("--seed", type=int, default=1)
  args = parser.parse_args()
  tables[args.table](args.runs, args.seed)


if __name__ == "__main__":
  main()
