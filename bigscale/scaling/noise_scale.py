"""The gradient noise scale of a run's players, from its rows.

McCandlish et al. 2018: tr(covariance of a sample's gradient) / ||gradient||^2,
in images. Batches well below it still gain from more images in about the same
number of steps; batches well above it waste them. Runs with
`log.noise_scale=True` write both terms, unbiased, in every row; their quotient
is taken of sums over many rows, since that of a single row means nothing.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.spec import require

PLAYERS = ("d", "g")
_FEWEST_ROWS = 5
_LEAST_RESAMPLES, _MOST_RESAMPLES = 40, 1_000_000
# Of draws at a time, which bounds memory.
_DRAWS = 10_000_000
_INTERVAL = (2.5, 97.5)


class NoiseScale(NamedTuple):
  """Of one player over one part of a run.

  Attributes:
    player: `d` or `g`.
    first_kimg: of the rows.
    last_kimg: of the rows.
    rows: how many.
    noise_scale: images; infinite where no gradient shows through the noise.
    low: end of its 95% interval, percentiles of a bootstrap over rows.
    high: the other end; may be infinite.
    signal: mean of ||gradient||^2, without the noise's share. May be
      negative where it is small.
    noise: mean of the trace of a sample's covariance.
  """

  player: str
  first_kimg: float
  last_kimg: float
  rows: int
  noise_scale: float
  low: float
  high: float
  signal: float
  noise: float


def noise_scales(
  rows: Sequence[Mapping[str, Any]],
  *,
  windows: int = 1,
  resamples: int = 1000,
  seed: int = 0,
) -> list[NoiseScale]:
  """Of D and G, in equal windows of the images shown.

  Args:
    rows: of metrics.jsonl. Those without the two terms, or with infinite
      ones, are passed over.
    windows: parts of the run.
    resamples: of the bootstrap.
    seed: of the bootstrap.

  Raises:
    SpecError: there are no such rows, or too few in a window.
  """
  require(
    windows >= 1,
    f"--windows={windows} must be 1 or more",
  )
  require(
    _LEAST_RESAMPLES <= resamples <= _MOST_RESAMPLES,
    f"--resamples={resamples} must be from {_LEAST_RESAMPLES}, for a tail of "
    "2.5%, to a million; 4000 is usual",
  )
  require(seed >= 0, f"--seed={seed} must not be negative")
  found = []
  for player in PLAYERS:
    table = _table(rows, player)
    ends = np.linspace(0, table[:, 0].max(), windows + 1)
    for first, last in itertools.pairwise(ends):
      inside = table[(table[:, 0] > first) & (table[:, 0] <= last)]
      require(
        len(inside) >= _FEWEST_ROWS,
        f"{player}: {len(inside)} rows from {first:g} to {last:g} kimg, but a "
        f"noise scale needs {_FEWEST_ROWS}; use fewer windows, or log more "
        "often (log.steps)",
      )
      found.append(_measure(player, inside, resamples, seed))
  return found


def _table(rows: Sequence[Mapping[str, Any]], player: str) -> np.ndarray:
  """[N, 3] of kimg, signal and noise."""
  names = ("kimg", f"{player}/gradient_signal", f"{player}/gradient_noise")
  table = np.array(
    [
      [row[n] for n in names]
      for row in rows
      if all(isinstance(row.get(n), (int, float)) for n in names)
    ],
    np.float64,
  ).reshape(-1, 3)
  table = table[np.isfinite(table).all(1)]
  require(
    len(table) > 0,
    f"no row has {names[1]} and {names[2]}: train with log.noise_scale=True",
  )
  return table


def _measure(
  player: str, table: np.ndarray, resamples: int, seed: int
) -> NoiseScale:
  signal, noise = table[:, 1], table[:, 2]
  rng = np.random.default_rng(seed)
  at_once = max(1, _DRAWS // len(table))
  sums = []
  for start in range(0, resamples, at_once):
    count = min(at_once, resamples - start)
    drawn = rng.integers(0, len(table), (count, len(table)))
    sums.append((signal[drawn].sum(1), noise[drawn].sum(1)))
  # Percentiles of the inverse, which passes through 0 where the scale passes
  # through infinity.
  with np.errstate(divide="ignore", invalid="ignore"):
    inverse = np.concatenate([top / below for top, below in sums])
    most, least = np.percentile(inverse, _INTERVAL)
    whole = signal.sum() / noise.sum()
  return NoiseScale(
    player,
    float(table[:, 0].min()),
    float(table[:, 0].max()),
    len(table),
    _inverted(whole),
    _inverted(least),
    _inverted(most),
    float(signal.mean()),
    float(noise.mean()),
  )


def _inverted(value: float) -> float:
  return 1 / float(value) if value > 0 else math.inf
