"""Looks up batch norm statistics for a truncation in a table.

The official BigGAN-deep generators were published with the statistics of 51
truncations, 0 to 1 in steps of 0.02, for latents under the rule `scale`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.ops.spectral import unflatten
from bigscale.sampling import latents as draw
from bigscale.spec import TruncationRule, require

# Tolerance in steps. Decimal fractions are not exact: 0.58 * 50 < 29.
_ON_THE_GRID = 1e-9


def statistics_at(
  table: Mapping[str, np.ndarray], truncation: float
) -> dict[str, Any]:
  """Returns the statistics of one truncation, as a `batch_stats` tree.

  A truncation on the table's grid uses a row of the table. At a fraction f of
  the way from row s to row s + 1, the result is `f * row[s] + (1 - f) *
  row[s + 1]`. A linear interpolation would have these weights the other way
  round. They are the weights of the ports made from the official graphs
  (pytorch-pretrained-BigGAN; BigGAN-Generator-Pretrained-Pytorch), so that
  images match those ports. The difference from linear interpolation is less
  than a step, and zero halfway.

  Args:
    table: statistics by path, [N, C]; row i belongs to truncation i / (N - 1).
    truncation: in [0, 1].

  Raises:
    SpecError: the truncation is outside the table.
  """
  require(
    0 <= truncation <= 1,
    f"truncation={truncation} is outside the statistics that were published "
    "with these weights, which cover truncations from 0 to 1",
  )
  return unflatten(
    {path: _row(rows, truncation) for path, rows in table.items()}
  )


def truncation_like(truncation: float | None, rule: TruncationRule) -> float:
  """Returns the truncation of rule `scale` whose latents are equally wide.

  Every use of the latents is a sum over many of them, whose distribution
  depends mainly on their standard deviation. Under `scale` that is 0.8796 times
  the truncation. Wider latents than those of truncation 1, for example
  untruncated ones with standard deviation 1, map to 1, the last row of a table.

  Args:
    truncation: truncation of the latents; None for N(0, 1).
    rule: meaning of the truncation.
  """
  bound, scale = draw.law(truncation, rule)
  if rule == "scale" and truncation is not None:
    return truncation
  widest, _ = draw.law(1.0, "scale")
  return min(1.0, scale * _deviation(bound) / _deviation(widest))


def _deviation(bound: float | None) -> float:
  """Returns the standard deviation of N(0, 1) restricted to +-bound."""
  if bound is None:
    return 1.0
  if bound < 1e-3:
    # Nearly uniform, and the closed form would cancel.
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
