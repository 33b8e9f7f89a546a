"""Tests of comparisons with the best value so far."""

import json
import math

import numpy as np
import pytest

from bigscale.monitor.best_so_far import Scores, SetBacks
from bigscale.monitor.verdict import Verdict
from bigscale.spec import VerdictSpec

# Evidence of a rollback after the correction for columns and groups.
NEEDED = math.log(100_000 * 64)


def falling(rng, length, noise=0.02):
  """A measure that improves like 1/step to a floor, in logarithms."""
  steps = np.arange(1, length + 1)
  return np.log(0.3 + 5.0 / steps) + noise * rng.standard_normal(length)


def evidence(values, made=None):
  made = made or SetBacks()
  return np.array([made.add(float(x), 10 * i, i) for i, x in enumerate(values)])


def test_a_collapse_after_an_improvement_is_found():
  for seed in range(20):
    values = falling(np.random.default_rng(seed), 60)
    values[40:] += np.minimum(0.15 * np.arange(20), 1.5)
    found = evidence(values)
    assert found[:40].max() < NEEDED
    assert 40 < np.argmax(found > NEEDED) < 50


@pytest.mark.parametrize(
  "wander",
  [
    lambda rng, n: 0.1 * rng.standard_normal(n),
    lambda rng, n: autoregressive(rng, n, 0.9, 0.1),
    lambda rng, n: autoregressive(rng, n, 0.99, 0.03),
    lambda rng, n: 0.1 * rng.standard_t(3, n),
    # An oscillation whose period is longer than the windows.
    lambda rng, n: 0.3 * np.sin(np.arange(n) / 20) + 0.05 * rng.normal(size=n),
  ],
)
def test_a_run_that_wanders_is_healthy(wander):
  alarms = 0
  for seed in range(20):
    rng = np.random.default_rng(seed)
    values = falling(rng, 2000, 0.0) + wander(rng, 2000)
    alarms += (evidence(values) > NEEDED).any()
  assert alarms == 0


def autoregressive(rng, length, memory, noise):
  values, last = np.zeros(length), 0.0
  for i in range(length):
    last = memory * last + noise * rng.standard_normal()
    values[i] = last
  return values


def test_small_set_backs_do_not_count():
  values = falling(np.random.default_rng(0), 200, 0.001)
  values[150:] += math.log(1.45)
  assert evidence(values).max() == 0.0


def test_a_set_back_that_lasts_stays_evidence_for_a_while():
  values = falling(np.random.default_rng(0), 100)
  values[60:] += 1.5
  found = evidence(values)
  assert (found[62:70] > NEEDED).all()


def test_the_onset_is_the_last_step_near_the_best():
  values = falling(np.random.default_rng(0), 100)
  values[60:80] += np.linspace(0.05, 1.5, 20)
  made = SetBacks()
  evidence(values[:75], made)
  assert 580 <= made.since <= 630


@pytest.mark.parametrize("kind", [Scores, SetBacks])
def test_a_restored_state_continues_equally(kind):
  values = falling(np.random.default_rng(1), 80)
  values[50:] += 1.0
  made = kind()
  evidence(values[:45], made)
  again = kind()
  again.set_state(json.loads(json.dumps(made.get_state())))
  rest = evidence(values[45:], made)
  np.testing.assert_array_equal(evidence(values[45:], again), rest)
  assert rest.max() > 0
  assert made.shown() == again.shown()


@pytest.mark.parametrize("kind", [Scores, SetBacks])
def test_after_a_cut_earlier_values_do_not_count(kind):
  values = falling(np.random.default_rng(1), 80)
  made = kind()
  evidence(values[:40], made)
  made.cut()
  assert made.shown() is None
  assert evidence(values[40:] + 2.0, made).max() == 0.0


# The distance of a BigGAN at 8 px, every 10 steps. From step 288 on, gradients
# of G had the wrong sign.
DISTANCES = (
  2.706,
  2.636,
  2.524,
  2.379,
  2.172,
  1.953,
  1.718,
  1.502,
  1.308,
  1.144,
  1.008,
  0.91,
  0.844,
  0.79,
  0.76,
  0.735,
  0.713,
  0.705,
  0.703,
  0.706,
  0.704,
  0.701,
  0.693,
  0.69,
  0.689,
  0.685,
  0.68,
  0.677,
  0.671,
  0.664,
  0.656,
  0.647,
  0.68,
  0.724,
  0.78,
  0.856,
  0.961,
  1.089,
  1.205,
  1.249,
  1.253,
  1.3,
  1.467,
  1.743,
  2.029,
  2.26,
  2.442,
  2.54,
  2.581,
  2.534,
  2.416,
  2.239,
  2.062,
  1.929,
  1.847,
  1.835,
  1.864,
  1.929,
  1.998,
  2.067,
)


def test_the_verdict_names_the_set_back():
  """The comparison of two windows is blind to it."""
  verdict = Verdict(VerdictSpec(warmup=10, quiet=5))
  rng = np.random.default_rng(0)
  alarms = []
  for number, value in enumerate(DISTANCES):
    for step in range(50 * number, 50 * number + 50):
      row = {"d/loss": float(rng.normal())}
      if step % 50 == 0:
        row["anchor/fakes/distance"] = value
      decision = verdict.update(step, row)
      if decision.new and decision.level == "rollback":
        alarms.append(decision)
  (decision,) = alarms
  (reason,) = decision.reasons
  assert reason.signal == "anchor/fakes/distance"
  assert reason.value > 1.5 * reason.reference
  assert 50 * 28 <= decision.onset <= 50 * 36
  assert decision.step <= 50 * 40
