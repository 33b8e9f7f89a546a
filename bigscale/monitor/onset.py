"""Dates the onset of a change in a signal."""

import math
from collections.abc import Sequence

import numpy as np

from bigscale.monitor.scan import Scale

# A jump is preferred to a ramp only if its squared error is smaller by this
# many residual variances.
_PREFER_RAMP = 10
# Minimum number of blocks before an onset, so that a trend can be fitted.
_FEWEST = 3
# The search starts this many levels below the scale that shows the change. One
# window of that scale is several blocks long.
_FINER = 2


def onset(scales: Sequence[Scale], signal: int, level: int) -> float | None:
  """Returns the training step at which a change began.

  Fits a linear trend plus either a jump or a ramp to the last blocks by least
  squares, for each possible onset. A jump is then dated more exactly on finer
  scales, down to a row. A ramp is not, because coarse scales show it best.

  Args:
    scales: scales of the signal, the finest first.
    signal: index of the signal.
    level: level of the scale that shows the change.

  Returns:
    The training step; None if there are too few blocks.
  """
  found: float | None = None
  ramp = False
  for scale in reversed(scales[: max(level - _FINER, 0) + 1]):
    values, steps = scale.blocks(signal)
    if len(steps) <= _FEWEST:
      continue
    if found is not None and (ramp or found < steps[min(8, len(steps) - 1)]):
      break
    found, ramp = _best(values, steps)
  return found


def _best(values: np.ndarray, steps: np.ndarray) -> tuple[float, bool]:
  """Returns the best onset on one scale, and whether a ramp begins there."""
  n = len(values)
  index = np.arange(n)
  cuts = np.arange(_FEWEST, n)
  # [onsets, blocks]
  ramps = np.maximum(0, index - cuts[:, None] + 1).astype(float)
  jumps = (index >= cuts[:, None]).astype(float)
  trend = np.linalg.qr(np.stack([np.ones(n), index], 1))[0]

  def errors(shapes: np.ndarray) -> np.ndarray:
    """Returns the squared error of each shape on top of a linear trend."""
    rest = values - trend @ (trend.T @ values)
    shapes = shapes - (shapes @ trend) @ trend.T
    norms = np.maximum((shapes**2).sum(1), 1e-12)
    return np.maximum(rest @ rest - (shapes @ rest) ** 2 / norms, 0.0)

  of_jumps = errors(jumps) * (1 + _PREFER_RAMP / n)
  of_ramps = errors(ramps)
  if math.isnan(of_jumps.min()):
    return float(steps[-1]), False
  ramp = bool(of_ramps.min() <= of_jumps.min())
  best = of_ramps if ramp else of_jumps
  return float(steps[cuts[int(best.argmin())]]), ramp
