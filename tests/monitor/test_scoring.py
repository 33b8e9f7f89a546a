"""Tests of outcomes and intervals."""

import math

import pytest

from bigscale.monitor import scoring
from bigscale.monitor.scoring import end_of, lost_step

TWIN = [(s, 10.0) for s in range(50, 601, 50)]


def after(step, *scores):
  """Returns the twin's scores up to a step, then others."""
  return [p for p in TWIN if p[0] <= step] + [
    (step + 50 * (i + 1), score) for i, score in enumerate(scores)
  ]


def test_wilson_interval_is_that_of_the_literature():
  # Newcombe 1998, table I, case 81 of 263: 0.2553 to 0.3662.
  found = scoring.wilson(81, 263)
  assert found["interval95"] == pytest.approx([0.2553, 0.3662], abs=1e-4)
  assert scoring.wilson(5, 5)["interval95"][1] == 1.0
  assert scoring.wilson(0, 0)["share"] is None


def test_no_alarm_in_30000_steps_bounds_the_rate():
  found = scoring.poisson(0, 30_000)
  assert found["per_10000"] == 0
  # 3.689 is half of the 97.5% quantile of chi-squared with 2 degrees of
  # freedom.
  assert found["interval95"] == pytest.approx([0, 3.689 / 3], abs=1e-3)
  low, high = scoring.poisson(4, 10_000)["interval95"]
  assert (low, high) == pytest.approx((1.090, 10.242), abs=1e-3)
  assert "4 in 10,000 steps" in scoring.rate_text(scoring.poisson(4, 10_000))


@pytest.mark.parametrize(
  ("scores", "ended", "expected"),
  [
    ([(10, 8.0), (20, 4.0), (30, 7.9)], None, None),
    ([(10, 8.0), (20, 4.0), (30, 8.1), (40, 9.0)], None, 30),
    # Recovers.
    ([(10, 4.0), (20, 9.0), (30, 7.0), (40, 3.0)], None, None),
    # Recovers and is lost again.
    ([(10, 4.0), (20, 9.0), (30, 7.0), (40, 8.5)], None, 40),
    ([(10, 4.0), (20, math.nan)], None, 20),
    ([(10, 4.0)], 17, 17),
    ([(10, 4.0), (20, 12.0)], 27, 20),
    ([], None, None),
  ],
)
def test_a_run_is_lost_if_its_scores_stay_above_twice_the_best(
  scores, ended, expected
):
  assert lost_step(scores, ended) == expected


@pytest.mark.parametrize(
  ("scores", "outcome", "step", "why"),
  [
    (TWIN, "unharmed", None, ""),
    (after(450, 11.9, 11.9, 11.9), "unharmed", None, ""),
    (after(450, 12.1, 12.1, 12.1), "harmed", None, ""),
    (after(450, 14.9, 14.9, 14.9), "harmed", None, ""),
    # One bad score is noise.
    (after(450, 10.0, 10.0, 19.0), "harmed", None, ""),
    # Lost to its twin, not to its own best.
    (after(450, 16.0, 16.0, 16.0), "lost", 500, "twin"),
    # The mean is lost, and the first score from which on all are is the second.
    (after(450, 14.0, 19.0, 19.0), "lost", 550, "twin"),
    # The mean is lost, although the last score is not.
    (after(450, 19.0, 19.0, 14.0), "lost", 600, "twin"),
    (after(400, 21.0, 21.0, 21.0, 21.0), "lost", 450, "own_best"),
  ],
)
def test_outcomes_against_the_twin(scores, outcome, step, why):
  found = end_of(scores, TWIN)
  assert (found.outcome, found.lost_step, found.why) == (outcome, step, why)
  assert found.ratio == pytest.approx(scoring.final(scores) / 10)


def test_a_dead_or_infinite_run_is_lost_whatever_its_scores():
  assert end_of(TWIN, TWIN, dead=333)[:3] == ("lost", 333, "dead")
  # The last scores of a run that ended early are not final ones.
  assert end_of(TWIN, TWIN, ended=40) == ("lost", 40, "not_finite", None)
  both = end_of(after(400, *[21.0] * 4), TWIN, dead=333)
  assert both[:3] == ("lost", 333, "dead")


def test_without_a_twin_only_the_run_itself_counts():
  found = end_of(after(450, 16.0, 16.0, 16.0), [])
  assert found == ("unharmed", None, "", None)
  assert end_of([], TWIN).ratio is None


def test_noise_is_that_of_the_scores_and_not_of_their_trend():
  import random

  rng = random.Random(0)
  runs = [
    [
      (s, 100 * math.exp(-s / 2000 + rng.gauss(0, 0.05)))
      for s in range(50, 1001, 50)
    ]
    for _ in range(20)
  ]
  assert scoring.noise(runs) == pytest.approx(0.05, rel=0.2)
  trend = [[(s, math.exp(-s / 500)) for s in range(50, 1001, 50)]]
  assert scoring.noise(trend) == pytest.approx(0, abs=1e-12)
  assert scoring.noise([]) == 0


def test_the_limit_adds_noise_to_the_tolerance():
  assert scoring.limit(0, 1, 2) == scoring.AS_GOOD
  expected = 1.1 * math.exp(1.645 * 0.05 * math.sqrt(1.5))
  assert scoring.limit(0.05, 1, 2) == pytest.approx(expected, rel=1e-3)


def test_the_level_at_a_step_is_the_mean_around_it():
  scores = [(50, 8.0), (100, 6.0), (150, 5.0)]
  assert scoring.level_at(scores, 60) == 7.0
  assert scoring.level_at(scores, 100) == 5.5
  assert scoring.level_at(scores, 200) == 5.0
  assert scoring.level_at([], 60) is None
