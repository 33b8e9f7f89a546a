r"""Measures how far 60 disguises of one collapse move the monitor's alarm.

  python -m tests.benchmarks.verdict_variants

The trace is `biggan_like` of `tests.benchmarks.verdict_study`. Needs only
Python and NumPy. The table in docs/reference/monitor.md comes from it.
"""

from collections.abc import Callable

import numpy as np

from tests.benchmarks.verdict_study import alarms, biggan_like

NAME = "g/sigma0/a"
Rows = list[tuple[int, dict[str, float]]]
Change = Callable[[Rows], Rows]


def _values(change: Callable[[float], float]) -> Change:
  return lambda rows: [
    (s, {n: change(x) for n, x in row.items()}) for s, row in rows
  ]


def _steps(change: Callable[[int], int]) -> Change:
  return lambda rows: [(change(s), row) for s, row in rows]


def _named(name: str) -> Change:
  return lambda rows: [(s, {name: row[NAME]}) for s, row in rows]


def _dropped(share: float, seed: int) -> Change:
  def change(rows: Rows) -> Rows:
    kept = np.random.default_rng(seed).random(len(rows)) >= share
    return [row for row, keep in zip(rows, kept, strict=True) if keep]

  return change


def _gap(first: int, length: int) -> Change:
  return lambda rows: rows[:first] + rows[first + length :]


def _noisy(size: float) -> Change:
  rng = np.random.default_rng(3)
  return _values(lambda x: x * float(np.exp(size * rng.standard_normal())))


def _columns(number: int, *, constant: bool) -> Change:
  def change(rows: Rows) -> Rows:
    rng = np.random.default_rng(4)
    more = rng.standard_normal((len(rows), number)) * (not constant) + 3
    return [
      (s, row | {f"c{i}": float(x) for i, x in enumerate(extra)})
      for (s, row), extra in zip(rows, more, strict=True)
    ]

  return change


def _held(times: int) -> Change:
  return lambda rows: [
    (s, rows[i - i % times][1]) for i, (s, _) in enumerate(rows)
  ]


def variants() -> dict[str, dict[str, Change]]:
  """Returns the disguises by group."""
  names = ("G_linear_sv0", "sigma/G", "Gen_linear.weight_orig", "g.sv0", "x")
  return {
    "rescaled": {
      f"x{c:g}": _values(lambda x, c=c: c * x)
      for c in (1e-3, 1e-2, 0.1, 10, 100, 1e3)
    },
    "renumbered": {
      f"+{c:g}": _steps(lambda s, c=c: s + int(c)) for c in (1e3, 1e6, 1e9)
    }
    | {f"x{c}": _steps(lambda s, c=c: s * c) for c in (10, 100, 1000)},
    "renamed": {name: _named(name) for name in names},
    "every 2nd to 5th row": {
      f"every {k}": lambda rows, k=k: rows[::k] for k in range(2, 6)
    },
    "every 6th to 10th row": {
      f"every {k}": lambda rows, k=k: rows[::k] for k in range(6, 11)
    },
    "10% to 50% of rows dropped": {
      f"{share:.0%}, seed {seed}": _dropped(share, seed)
      for share in (0.1, 0.2, 0.3, 0.4, 0.5)
      for seed in (0, 1)
    },
    "a gap": {
      f"{n} rows from {a}": _gap(a, n)
      for a, n in ((300, 20), (300, 200), (800, 20), (800, 200), (1050, 60))
    },
    "held values": {f"{k} rows": _held(k) for k in (2, 3, 5)},
    "noise added": {
      f"{c:.1%}": _noisy(c) for c in (0.005, 0.01, 0.02, 0.03, 0.05)
    },
    "columns of noise added": {
      f"{n}": _columns(n, constant=False) for n in (1, 3, 10, 30)
    },
    "constant columns added": {
      f"{n}": _columns(n, constant=True) for n in (1, 10)
    },
    "the first rows cut": {
      f"{n}": lambda rows, n=n: rows[n:] for n in (100, 300, 600, 900, 1000)
    },
  }


def _alarm(rows: Rows, original: dict[int, int]) -> int | None:
  """Returns the row of the original at which the first alarm is."""
  return next((original[d.step] for d in alarms(iter(rows))), None)


def main() -> None:
  """Prints the shifts of the alarm by group, in rows of the original."""
  values, at = biggan_like(0, 1)
  rows = [(i, {NAME: float(x)}) for i, x in enumerate(values)]
  usual = _alarm(rows, {i: i for i in range(len(rows))})
  print(f"onset at row {at}, alarm at row {usual} of {len(rows)}")
  for group, changes in variants().items():
    shifts = []
    for change in changes.values():
      changed = change(rows)
      original = {s: s for s, _ in changed}
      if group == "renumbered":
        original = {s: i for i, (s, _) in enumerate(changed)}
      found = _alarm(changed, original)
      shifts.append("lost" if found is None else f"{found - usual:+d}")
    print(f"{group:28} {len(shifts):3}  {' '.join(shifts)}", flush=True)


if __name__ == "__main__":
  main()
