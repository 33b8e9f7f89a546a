"""Statistics at and between the published truncations."""

import numpy as np
import pytest
from scipy import stats

from bigscale.sampling import latents
from bigscale.sampling.statistics_table import statistics_at, truncation_like
from bigscale.spec import SpecError

_ROWS = np.random.default_rng(0).normal(size=(51, 4)).astype("f4")


def _at(truncation):
  tree = statistics_at({"block0/norm/mean": _ROWS}, truncation)
  return tree["block0"]["norm"]["mean"]


@pytest.mark.parametrize("row", range(51))
def test_a_truncation_on_the_grid_is_a_row(row):
  """In floating point, 0.58 * 50 is less than 29."""
  np.testing.assert_array_equal(_at(float(f"{0.02 * row:.2f}")), _ROWS[row])


@pytest.mark.parametrize(
  ("truncation", "low", "share"),
  [(0.41, 20, 0.5), (0.405, 20, 0.25), (0.0133, 0, 0.665), (0.999, 49, 0.95)],
)
def test_weights_between_rows_match_the_ports(truncation, low, share):
  """The lower row is weighted by the fraction, see `statistics_at`."""
  expected = share * _ROWS[low] + (1 - share) * _ROWS[low + 1]
  np.testing.assert_allclose(_at(truncation), expected, rtol=1e-5)
  assert _at(truncation).dtype == np.float32


@pytest.mark.parametrize("truncation", [-0.1, 1.02, float("nan")])
def test_truncations_outside_the_table_are_refused(truncation):
  with pytest.raises(SpecError, match="is outside the statistics"):
    statistics_at({"mean": _ROWS}, truncation)


@pytest.mark.parametrize("threshold", [2.0, 1.0, 0.4, 0.04, 1e-3, 9e-4])
def test_resampled_latents_use_equally_wide_latents(threshold):
  like = truncation_like(threshold, "resample")
  wide = stats.truncnorm(-2, 2, scale=like).std()
  assert wide == pytest.approx(
    stats.truncnorm(-threshold, threshold).std(), rel=1e-4
  )
  latents.check_truncation(like, "scale")


@pytest.mark.parametrize("rule", ["resample", "scale"])
def test_wider_latents_use_the_last_row(rule):
  assert truncation_like(None, rule) == 1.0
  assert truncation_like(3.0, "resample") == 1.0


def test_truncation_of_the_scale_rule_is_unchanged():
  assert truncation_like(0.37, "scale") == 0.37
