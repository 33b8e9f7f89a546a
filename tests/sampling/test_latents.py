"""Truncated latents have exactly the distribution of resampling."""

import itertools
import types

import jax
import numpy as np
import pytest
from scipy import stats

from bigscale.sampling import latents
from bigscale.spec import SpecError

_THRESHOLDS = (2.0, 1.0, 0.5, 0.04)


@pytest.fixture(scope="module")
def drawn():
  """By threshold, 200,000 entries from the same key."""
  key = jax.random.key(0)
  return {
    threshold: np.asarray(
      latents.truncated(key, 2000, 100, threshold, "float32")
    )
    for threshold in _THRESHOLDS
  }


@pytest.mark.parametrize("threshold", _THRESHOLDS)
def test_truncated_is_the_truncated_normal(drawn, threshold):
  entries = drawn[threshold].ravel().astype(np.float64)
  assert (np.abs(entries) < threshold).all()
  expected = stats.truncnorm(-threshold, threshold)
  # With this many entries, a distance above 0.0036 has probability 0.01.
  assert stats.kstest(entries, expected.cdf).statistic < 0.0036
  # Clipping would put 5 % to 97 % of the mass at the bounds.
  edge = 0.99 * threshold
  share = np.mean(np.abs(entries) > edge)
  assert share == pytest.approx(2 * expected.sf(edge), rel=0.1)


def test_truncated_matches_resampling(drawn):
  """Resampling draws each entry again until it falls inside."""
  random = np.random.default_rng(0)
  entries = random.standard_normal(200_000)
  while (outside := np.abs(entries) > 0.5).any():
    entries[outside] = random.standard_normal(outside.sum())
  assert stats.ks_2samp(entries, drawn[0.5].ravel()).statistic < 0.0051


def test_an_entry_shrinks_with_the_threshold(drawn):
  for wide, narrow in itertools.pairwise(_THRESHOLDS):
    assert (np.abs(drawn[narrow]) <= np.abs(drawn[wide])).all()
    assert (np.sign(drawn[narrow]) == np.sign(drawn[wide])).all()


def test_a_wide_threshold_changes_nothing(drawn):
  entries = np.asarray(
    latents.truncated(jax.random.key(1), 2000, 100, 8.0, "float32")
  )
  assert stats.kstest(entries.ravel(), stats.norm.cdf).statistic < 0.0036


def test_draw_follows_the_model():
  model = types.SimpleNamespace(latent_dim=5, dtype="float32")
  key = jax.random.key(0)
  np.testing.assert_array_equal(
    latents.draw(key, 3, model), latents.normal(key, 3, 5, "float32")
  )
  np.testing.assert_array_equal(
    latents.draw(key, 3, model, 0.5),
    latents.truncated(key, 3, 5, 0.5, "float32"),
  )


_MODEL = types.SimpleNamespace(latent_dim=100, dtype="float32")


@pytest.mark.parametrize("truncation", [1.0, 0.4, 0.02])
def test_scale_matches_the_official_modules(truncation):
  """The official modules use truncation * truncnorm(-2, 2)."""
  z = latents.draw(jax.random.key(0), 2000, _MODEL, truncation, "scale")
  entries = np.asarray(z, np.float64).ravel()
  assert (np.abs(entries) < 2 * truncation).all()
  expected = stats.truncnorm(-2, 2, scale=truncation)
  assert stats.kstest(entries, expected.cdf).statistic < 0.0036
  assert entries.std() == pytest.approx(expected.std(), rel=0.005)


def test_rules_differ_for_the_same_truncation():
  deviations = {
    rule: float(latents.draw(jax.random.key(0), 2000, _MODEL, 0.4, rule).std())
    for rule in ("resample", "scale")
  }
  assert deviations == {
    "resample": pytest.approx(0.228, abs=1e-3),
    "scale": pytest.approx(0.352, abs=1e-3),
  }


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("rule", ["resample", "scale"])
def test_thresholds_are_positive(threshold, rule):
  with pytest.raises(SpecError, match="must be positive and finite"):
    latents.check_truncation(threshold, rule)
  latents.check_truncation(None, rule)


def test_a_scale_is_at_most_one():
  latents.check_truncation(1.5, "resample")
  latents.check_truncation(1.0, "scale")
  with pytest.raises(SpecError, match=r"1\.5 must lie in \(0, 1\].*resample"):
    latents.check_truncation(1.5, "scale")


def test_an_unknown_rule_is_refused():
  with pytest.raises(SpecError, match="'clip' must be one of resample, scale"):
    latents.check_truncation(0.5, "clip")
