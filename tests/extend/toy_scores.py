"""Scores defined outside the package: docs/how-to/extend.md, "A score"."""

import numpy as np

from bigscale.spec import ScoreKind


def sharpness(samples):
  """Returns the mean squared difference between neighboring pixels."""
  pixels = samples.images.astype(np.float64) / 255
  return {"sharpness": (np.diff(pixels, axis=2) ** 2).mean()}


Sharpness = ScoreKind(
  name="sharpness",
  columns={"sharpness": "more"},
  compute=sharpness,
  over="pixels",
)


def spread(samples, reals):
  """Returns the variance of the samples' features, divided by the reals'."""
  variances = [np.trace(seen.moments.covariance) for seen in (samples, reals)]
  return {"spread": variances[0] / variances[1]}


# The best value is 1, so neither "more" nor "less" is better.
Spread = ScoreKind(
  name="spread",
  columns={"spread": None},
  compute=spread,
  fewest_samples=2,
  fewest_reals=2,
)


def nearest(samples, reals):
  """Returns the mean distance from a sample to its nearest real."""
  apart = samples.features[:, None] - reals.features[None]
  return {"nearest": np.sqrt((apart**2).sum(-1)).min(1).mean()}


Nearest = ScoreKind(
  name="nearest",
  columns={"nearest": "less"},
  compute=nearest,
  keeps=("features",),
  single_reals=True,
)
