"""One signal followed by itself."""

import random

import pytest

from bigscale.monitor.signals import GROUPS, Tracker, kind_of
from bigscale.monitor.verdict import Verdict
from bigscale.spec.verdict import VerdictSpec

SPEC = VerdictSpec()


def follow(name, values, spacing=10, start=0, spec=SPEC):
  """The tracker after the values, and its evidence after each."""
  tracker = Tracker(kind_of(name), spec)
  rng = random.Random(0)
  evidence = []
  for index, value in enumerate(values):
    noisy = value * (1 + 0.02 * rng.gauss(0, 1))
    tracker.add(noisy, start + index * spacing, judge=True)
    evidence.append(tracker.evidence(1))
  return tracker, evidence


def test_a_new_level_is_evidence_until_it_is_the_new_normal():
  _, evidence = follow("g/grad_norm", [1.0] * 40 + [4.0] * 100)
  assert max(evidence[:40]) < 0.1
  assert min(evidence[50:70]) == 1.0
  assert max(evidence[-40:]) < 0.1


def test_what_has_recovered_is_forgiven_soon_however_bad_it_was():
  values = [1.0] * 40 + [100.0] * 25 + [1.0] * 20
  _, evidence = follow("g/grad_norm", values)
  assert evidence[64] == 1.0
  assert evidence[-1] < 0.1


def test_a_return_to_what_was_normal_is_harmless():
  there = [1.0] * 40 + [0.05] * 100
  _, evidence = follow("d/grad_norm", there + [1.0] * 40)
  assert max(evidence[40:60]) == 1.0
  assert max(evidence[-38:]) < 0.1
  _, evidence = follow("d/grad_norm", [*there, *[30.0] * 40])
  assert evidence[-20] == 1.0


@pytest.mark.parametrize(
  ("name", "level", "alone"),
  [
    # Known to spike: 2% of 50,000 steps is longer than 20 values of 10.
    ("d/loss", 6.0, False),
    ("d/sigma0/fc", 6.0, False),
    # Twice as far as a spike goes, or never seen to spike.
    ("d/loss", 300.0, True),
    ("g/sigma0/fc", 6.0, True),
  ],
)
def test_who_is_believed_alone_before_it_can_recover(name, level, alone):
  tracker, evidence = follow(name, [0.6] * 40 + [level] * 20, start=50_000)
  assert evidence[-1] == 1.0
  assert tracker.alone == alone


def test_a_spike_that_outlasts_all_recoveries_is_believed_alone():
  values = [0.6] * 200 + [6.0] * 30
  tracker, _ = follow("d/loss", values, spacing=50, start=50_000)
  assert tracker.alone
  assert tracker.onset == 50_000 + 200 * 50


@pytest.mark.parametrize(("level", "alone"), [(6e4, True), (6e-6, False)])
def test_a_penalty_that_falls_is_not_believed_alone(level, alone):
  """After a spike of D it may stay low, and the run be well."""
  values = [0.6] * 200 + [level] * 30
  tracker, evidence = follow("d/r1", values, spacing=50, start=50_000)
  assert evidence[-1] == 1.0
  assert tracker.alone == alone


def test_the_second_singular_value_adds_little_to_one_group():
  assert kind_of("g/sigma1/fc").group == kind_of("g/sigma2/fc").group
  assert kind_of("g/sigma0/fc").group == "g_weights"
  tracker, _ = follow("g/sigma1/fc", [0.6] * 40 + [60.0] * 20)
  assert not tracker.alone
  small = GROUPS[kind_of("g/sigma1/fc").group]
  assert GROUPS["game"] + GROUPS["d_weights"] + 3 * small < SPEC.rollback
  assert GROUPS["game"] + GROUPS["g_weights"] >= SPEC.rollback


def test_trends_are_harmless():
  _, up = follow("g/sigma0/fc", [1.02**i for i in range(200)])
  _, down = follow("g/loss", [2.0 - i / 200 for i in range(200)])
  assert max(up + down) < 0.5


def test_a_score_is_compared_with_the_best():
  # Slow enough for a reference that follows.
  scores = [40.0, 20.0, 10.0, *(10.0 * 1.05**i for i in range(80))]
  tracker, evidence = follow("eval/fid", scores, spacing=1000)
  assert max(evidence[:5]) == 0.0
  assert evidence[-1] == 1.0
  assert tracker.alone
  assert tracker.reference == pytest.approx(10.0, rel=0.1)


def test_a_column_of_zeros_has_no_scale():
  tracker = Tracker(kind_of("restarts"), SPEC)
  for step in range(400):
    tracker.add(float(step >= 300), step, judge=True)
  assert not tracker.alone
  assert tracker.evidence(1) < 1.0


def test_one_of_many_needs_more():
  values = [1.0] * 40 + [1.8] * 3
  tracker, _ = follow("g/sigma0/fc", values)
  assert tracker.evidence(180) < tracker.evidence(1)


def test_a_lazy_penalty_is_not_zero_between():
  verdict = Verdict(SPEC)
  for step in range(1000):
    lazy = 0.1 if step % 16 == 0 else 0.0
    decision = verdict.update(step, {"d/r1": lazy})
    assert decision.level == "ok"
  learned = verdict.get_state()["trackers"]["d/r1"]
  assert learned["last"] == 0.1


def test_a_level_is_left_only_well_below():
  """Evidence that falls a little below a limit and rises again: one warn."""
  pattern = [4.0] * 8 + ([1.0] * 3 + [4.0] * 2) * 3 + [1.0] * 40
  verdict = Verdict(SPEC)
  levels = []
  rng = random.Random(0)
  for index, value in enumerate([1.0] * 40 + pattern):
    noisy = value * (1 + 0.02 * rng.gauss(0, 1))
    decision = verdict.update(10 * index, {"g/grad_norm": noisy})
    levels += [decision.level] if decision.new else []
  assert levels == ["warn", "ok"]


def test_a_probe_that_fails_now_and_then_is_not_broken():
  verdict = Verdict(SPEC)
  for step in range(100):
    value = float("nan") if step % 2 else 1.0
    assert verdict.update(step, {"g/sigma0/fc": value}).level == "ok"
