"""Batch norm's statistics at a truncation, out of a table of them.

The official BigGAN-deep generators were published with statistics of 51
truncations, 0 to 1 in steps of 0.02, of latents under the rule `scale`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.ops.spectral import unflatten
from bigscale.sampling import latents as draw
from bigscale.spec import TruncationRule, require

# Of a step. Decimal fractions are not exact: 0.58 * 50 < 29.
_ON_THE_GRID = 1e-9


def statistics_at(
  table: Mapping[str, np.ndarray], truncation: float
) -> dict[str, Any]:
  """Returns the statistics of one truncation, as `batch_stats` has them.

  On the table's grid they are a row. Between row s and row s + 1, a fraction f
  of the way, they are `f * row[s] + (1 - f) * row[s + 1]`. A linear
  interpolation would have the weights the other way round; these are those of
  the ports that were made from the official graphs (pytorch-pretrained-BigGAN;
  BigGAN-Generator-Pretrained-Pytorch), and so images are theirs. They differ
  from linear ones by less than a step, and halfway not at all.

  Args:
    table: by path, [N, C]; row i is of truncation i / (N - 1).
    truncation: in [0, 1].

  Raises:
    SpecError: the truncation lies beyond the table.
  """
  require(
    0 <= truncation <= 1,
    f"truncation={truncation} lies beyond the statistics that were published "
    "with these weights, which are those of truncations from 0 to 1",
  )
  return unflatten(
    {path: _row(rows, truncation) for path, rows in table.items()}
  )


def truncation_like(truncation: float | None, rule: TruncationRule) -> float:
  """Returns the truncation of rule `scale` with latents as wide as these.

  Every use of the latents is a sum over many of them, whose distribution
  depends on little but their standard deviation: it is 0.8796 times the
  truncation under `scale`. Latents wider than those of truncation 1 (without
  truncation it is 1) get 1, the last of a table.

  Args:
    truncation: of the latents; None for N(0, 1).
    rule: what it means.
  """
  bound, scale = draw.law(truncation, rule)
  if rule == "scale" and truncation is not None:
    return truncation
  widest, _ = draw.law(1.0, "scale")
  return min(1.0, scale * _deviation(bound) / _deviation(widest))


def _deviation(bound: float | None) -> float:
  """The standard deviation of N(0, 1) within +-bound."""
  if bound is None:
    return 1.0
  if bound < 1e-3:
    # Uniform, and the closed form cancels.
    return bound / math.sqrt(3)
  density = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi)
  return math.sqrt(1 - 2 * bound * density / math.erf(bound / math.sqrt(2)))


def _row(rows: np.ndarray, truncation: float) -> np.ndarray:
  place = truncation * (len(rows) - 1)
  nearest = round(place)
  if abs(place - nearest) < _ON_THE_GRID:
    return rows[nearest]
  fraction, start = math.modf(place)
  start = int(start)
  return (fraction * rows[start] + (1 - fraction) * rows[start + 1]).astype(
    rows.dtype
  )
