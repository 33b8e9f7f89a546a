"""Computes the gradient noise scale of G and D from a run's logged rows.

The scale is tr(covariance of a sample's gradient) / ||gradient||^2, in images
(McCandlish et al. 2018). Below it, a larger batch reduces the number of steps
almost in proportion; far above it, more images per step are wasted. Runs with
`log.noise_scale=True` log unbiased estimates of both terms in every row. The
ratio of a single row is too noisy, so sums over many rows are divided.
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
# Maximum number of random indices at a time, which bounds memory.
_DRAWS = 10_000_000
_INTERVAL = (2.5, 97.5)


class NoiseScale(NamedTuple):
  """Noise scale of one player in one window of a run.

  Attributes:
    player: `d` or `g`.
    first_kimg: kimg of the first row.
    last_kimg: kimg of the last row.
    rows: number of rows.
    noise_scale: noise scale in images; infinite if noise hides the gradient.
    low: lower end of its 95% interval, a percentile of a bootstrap over rows.
    high: upper end of the interval; may be infinite.
    signal: mean of the unbiased estimate of ||gradient||^2. May be negative if
      the gradient is small.
    noise: mean trace of the covariance of a sample's gradient.
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
  """Returns the noise scales of D and G in equal windows of kimg.

  Args:
    rows: rows of metrics.jsonl. Rows in which a term is missing or not finite
      are skipped.
    windows: number of windows.
    resamples: number of bootstrap resamples.
    seed: seed of the bootstrap.

  Raises:
    SpecError: no row has both terms, or a window has too few rows.
  """
  require(
    windows >= 1,
    f"--windows={windows} must be at least 1",
  )
  require(
    _LEAST_RESAMPLES <= resamples <= _MOST_RESAMPLES,
    f"--resamples={resamples} must be between {_LEAST_RESAMPLES}, which a 2.5% "
    "tail needs, and a million; 4000 is typical",
  )
  require(seed >= 0, f"--seed={seed} must be at least 0")
  found = []
  for player in PLAYERS:
    table = _table(rows, player)
    ends = np.linspace(0, table[:, 0].max(), windows + 1)
    for first, last in itertools.pairwise(ends):
      inside = table[(table[:, 0] > first) & (table[:, 0] <= last)]
      require(
        len(inside) >= _FEWEST_ROWS,
        f"{player} has {len(inside)} rows from {first:g} to {last:g} kimg, but "
        f"a noise scale needs {_FEWEST_ROWS}; use fewer windows, or log more "
        "often (log.steps)",
      )
      found.append(_measure(player, inside, resamples, seed))
  return found


def _table(rows: Sequence[Mapping[str, Any]], player: str) -> np.ndarray:
  """Returns [N, 3]: kimg, signal and noise of each row."""
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
  # Percentiles of the inverse, which is 0 where the scale is infinite.
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
