"""Tests of the verdict's alarms, their reasons, and what causes no alarm."""

import itertools
import json
import math
import random
import struct

import pytest

from bigscale.monitor.verdict import Verdict
from bigscale.spec import SpecError
from bigscale.spec.verdict import VerdictSpec

STEPS = 1200
AT = 700
INTERVAL = 10
# Level of each signal, and the noise and drift of its logarithm.
SIGNALS = {
  "d/loss": (0.62, 0.1, -0.1),
  "g/loss": (0.95, 0.1, 0.1),
  "d/r1": (0.05, 0.3, 1.5),
  "d/grad_norm": (1.5, 0.35, 0.7),
  "g/grad_norm": (1.5, 0.4, 0.5),
  "d/update_norm": (0.1, 0.08, -0.2),
  "g/update_norm": (0.1, 0.08, -0.2),
  "d/weight_norm": (20.0, 0.001, 0.3),
  "g/weight_norm": (20.0, 0.001, 0.3),
  "ema/distance": (0.03, 0.05, 0.3),
}
EXPENSIVE = {
  "g/diversity": (0.8, 0.08, 0.0),
  "g/effective_rank": (0.6, 0.15, 0.1),
  "g/pixel_distance": (1.0, 0.25, -2.0),
  "d/heldout_gap": (0.2, 0.3, 0.5),
  **{f"g/sigma0/layer{i}": (2.0, 0.02, 0.4) for i in range(20)},
  **{f"d/sigma0/layer{i}": (2.0, 0.05, 0.4) for i in range(20)},
}


def rows(effects=None, seed=0, steps=STEPS, at=AT, tau=40.0, end=None):
  """Yields the steps and rows of a run.

  Args:
    effects: change of each signal's logarithm from `at` on.
    seed: seed of the noise.
    steps: number of steps.
    at: first changed step.
    tau: time constant of the change, in steps.
    end: first step after the change; None if it lasts.
  """
  rng = random.Random(seed)
  correlated = {}
  for step in range(steps):
    drift = math.log1p(30 * step / steps) / math.log(31)
    row = {"g/nonfinite": 0.0, "perf/mfu": rng.random(), "aug/p": step / steps}
    shown = SIGNALS | (EXPENSIVE if step % INTERVAL == 0 else {})
    for name, (level, noise, slope) in shown.items():
      last = correlated.get(name, 0.0)
      correlated[name] = 0.5 * last + math.sqrt(0.75) * rng.gauss(0, 1)
      change = 0.0
      if effects and at <= step < (end or steps):
        change = effects.get(name, 0.0) * (1 - math.exp((at - step) / tau))
      exponent = slope * drift + noise * correlated[name] + change
      row[name] = level * math.exp(exponent)
    yield step, row


def judge(run, spec=None, kinks=()):
  verdict = Verdict(spec or VerdictSpec(), kinks)
  decisions = [verdict.update(step, row) for step, row in run]
  return [d for d in decisions if d.new], verdict


def first(decisions, level):
  return next((d for d in decisions if d.level == level), None)


FAULTS = {
  "g_lr": {"g/update_norm": 2.3, "g/loss": 1.0, "ema/distance": 2.0},
  "d_frozen": {"d/loss": 2.0, "g/diversity": -2.0},
  "repeated_image": {"g/loss": 1.5, "d/loss": -3.0, "g/diversity": -2.0},
  "mode_collapse": {
    "g/diversity": -2.5,
    "g/effective_rank": -2.5,
    "d/loss": -1.0,
  },
  "one_layer": {"g/sigma0/layer7": 2.0},
  "ema": {"ema/distance": 2.0},
  "weights_grow": {"g/weight_norm": 1.0},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_faults_request_a_rollback(fault, seed):
  decisions, _ = judge(rows(FAULTS[fault], seed))
  alarm = first(decisions, "rollback")
  assert alarm is not None
  assert AT < alarm.step <= AT + 60
  # At most one probe early and five late.
  assert AT - INTERVAL <= alarm.onset <= AT + 5 * INTERVAL
  assert all(d.step >= AT for d in decisions)
  assert alarm.reasons[0].signal in set(FAULTS[fault]) | {"d/logit_gap"}
  assert "by chance once in" in alarm.reasons[0].rule


def test_losses_alone_warn_if_other_groups_are_watched():
  losses = {"d/loss": 1.5, "g/loss": 1.0}
  decisions, _ = judge(rows(losses))
  assert first(decisions, "warn") is not None
  assert first(decisions, "rollback") is None


def test_losses_alone_roll_back_if_no_other_group_is_watched():
  run = (
    (step, {"d/loss": row["d/loss"], "g/loss": row["g/loss"]})
    for step, row in rows({"d/loss": 1.5, "g/loss": 1.0})
  )
  assert AT < first(judge(run)[0], "rollback").step <= AT + 60


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_run_has_no_alarms(seed):
  decisions, verdict = judge(rows(seed=seed))
  assert decisions == []
  assert verdict.judged
  assert verdict.notes == []


@pytest.mark.parametrize("seed", range(4))
def test_a_spike_of_d_that_recovers_is_only_a_warning(seed):
  spike = {
    "d/loss": 1.5,
    "d/grad_norm": 2.0,
    "g/grad_norm": 1.5,
    "d/r1": 3.0,
    "d/heldout_gap": 1.0,
    **{f"d/sigma0/layer{i}": 1.3 for i in range(20)},
  }
  decisions, _ = judge(rows(spike, seed, tau=3.0, end=AT + 60))
  assert first(decisions, "rollback") is None
  assert first(decisions, "warn") is not None
  assert decisions[-1].level == "ok"


def test_a_declared_change_is_no_alarm():
  change = {"g/update_norm": -2.3, "d/update_norm": -2.3, "d/loss": 0.8}
  assert judge(rows(change, tau=5.0))[0]
  decisions, _ = judge(rows(change, tau=5.0), kinks=[AT])
  assert decisions == []


def test_a_fault_after_a_declared_change_is_detected():
  decisions, _ = judge(rows(FAULTS["g_lr"]), kinks=[400])
  assert first(decisions, "rollback").step <= AT + 100


def test_a_change_in_the_warm_up_is_not_judged():
  fault = rows(FAULTS["one_layer"], at=100, steps=190)
  assert judge(fault, VerdictSpec(warmup=200))[0] == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("signal", ["d/loss", "g/grad_norm", "g/update_norm"])
def test_not_finite_is_an_immediate_rollback_even_in_the_warm_up(signal, bad):
  verdict = Verdict(VerdictSpec())
  for step, row in rows(steps=21):
    decision = verdict.update(step, row | ({signal: bad} if step == 20 else {}))
  assert (decision.level, decision.new, decision.onset) == (
    "rollback",
    True,
    20,
  )
  reason = decision.reasons[0]
  assert (reason.signal, reason.rule) == (signal, "not finite")
  json.dumps(verdict.get_state(), allow_nan=False)


def test_not_finite_without_a_warning_dates_to_its_own_step():
  verdict = Verdict(VerdictSpec())
  crept = {"d/sigma0/layer3": 0.06}
  for step, row in rows(crept, at=400, steps=AT):
    assert verdict.update(step, row).level == "ok"
  decision = verdict.update(AT, {"d/loss": math.nan})
  assert (decision.level, decision.onset) == ("rollback", AT)


def test_not_finite_after_a_warning_dates_to_the_warnings_onset():
  verdict = Verdict(VerdictSpec())
  spike = {"d/loss": 1.5, "d/grad_norm": 2.0, "g/grad_norm": 1.5, "d/r1": 3.0}
  for step, row in rows(spike, tau=3.0):
    warned = verdict.update(step, row)
    if warned.level != "ok":
      break
  assert warned.level == "warn"
  decision = verdict.update(step + 1, {"d/loss": math.nan})
  assert (decision.level, decision.onset) == ("rollback", warned.onset)
  assert AT - 3 * INTERVAL <= decision.onset < step


def test_a_nonfinite_count_is_an_immediate_rollback():
  verdict = Verdict(VerdictSpec())
  decision = verdict.update(3, {"d/loss": 1.0, "g/nonfinite": 2.0})
  assert decision.level == "rollback"
  assert decision.reasons[0].signal == "g/nonfinite"


def test_not_finite_is_reported_once_per_occurrence():
  values = [0.5] * 5 + [math.nan] * 60 + [0.5] * 5 + [math.inf]
  decisions, _ = judge((s, {"d/loss": v}) for s, v in enumerate(values))
  alarms = [d.step for d in decisions if d.level == "rollback"]
  assert alarms == [5, 70]


def test_not_finite_during_an_alarm_is_another_alarm():
  verdict = Verdict(VerdictSpec())
  for step, row in rows(FAULTS["one_layer"], steps=AT + 40):
    decision = verdict.update(step, row)
  assert (decision.level, decision.new) == ("rollback", False)
  decision = verdict.update(AT + 40, {"g/loss": math.nan})
  assert (decision.level, decision.new) == ("rollback", True)
  assert decision.reasons[0].signal == "g/loss"


def test_a_lasting_shift_becomes_normal_and_a_later_fault_is_detected():
  """Judges a benign shift at step 6,000 and a NaN at step 15,000."""

  def shifted():
    rng = random.Random(0)
    for step in range(0, 15_001, 10):
      level = 0.6 if step < 6000 else 1.2
      row = {"d/loss": level + 0.05 * rng.gauss(0, 1)}
      yield step, row if step < 15_000 else {"d/loss": math.nan}

  decisions, _ = judge(shifted())
  levels = [(d.level, d.step) for d in decisions]
  assert levels[0][0] in ("warn", "rollback")
  assert ("rollback", 15_000) in levels
  assert levels[-2][0] == "ok"


DEAD = {"d/grad_norm": 0.0, "d/logit_real": 0.1, "d/logit_fake": 0.1}


def test_a_dead_discriminator_is_a_rollback_after_three_rows():
  decisions, _ = judge((step, DEAD) for step in range(0, 50, 10))
  assert [(d.step, d.level) for d in decisions] == [(20, "rollback")]
  (reason,) = decisions[-1].reasons
  assert decisions[-1].onset == 0
  assert reason.as_text() == (
    "d/grad_norm 0, before unknown (zero, every logit 0.1)"
  )


def test_the_onset_of_a_dead_discriminator_precedes_its_alarm():
  verdict = Verdict(VerdictSpec())
  for step in range(100, 103):
    decision = verdict.update(step, DEAD)
  assert (decision.level, decision.onset) == ("rollback", 99)


@pytest.mark.parametrize(
  "alive",
  [
    # A hinge loss has no gradient if D separates all reals and fakes.
    DEAD | {"d/logit_real": 3.0, "d/logit_fake": -3.0},
    DEAD | {"d/grad_norm": 1e-6},
    {"d/grad_norm": 0.0},
    {"d/grad_norm": 0.0, "d/logit_real": None, "d/logit_fake": None},
    {"d/grad_norm": 0.0, "d/logit_real": "x", "d/logit_fake": "x"},
    {"d/logit_real": 0.1, "d/logit_fake": 0.1},
  ],
)
def test_a_discriminator_that_is_not_dead(alive):
  decisions, _ = judge((step, alive) for step in range(20))
  assert not decisions


def test_a_discriminator_that_recovers_is_not_dead():
  rows_ = [DEAD, DEAD, DEAD | {"d/grad_norm": 0.3}, DEAD, DEAD]
  decisions, _ = judge(enumerate(rows_))
  assert not decisions


def test_a_restart_keeps_the_number_of_dead_rows():
  first, second = Verdict(VerdictSpec()), Verdict(VerdictSpec())
  first.update(0, DEAD)
  first.update(1, DEAD)
  second.set_state(json.loads(json.dumps(first.get_state())))
  assert second.update(2, DEAD).level == "rollback"


def test_a_rollback_that_is_not_made_is_requested_once():
  decisions, _ = judge(rows(FAULTS["one_layer"]))
  assert [d.level for d in decisions] == ["rollback", "ok"]


def test_a_probe_that_fails_alone_is_noted_once():
  broken = ((s, r | {"g/diversity": math.nan}) for s, r in rows())
  decisions, verdict = judge(broken)
  assert decisions == []
  assert verdict.notes == [
    "values of g/diversity that are not finite are skipped"
  ]


def test_a_single_signal_that_stays_not_finite_is_a_rollback():
  values = [1.0] * 20 + [math.inf] * 5
  decisions, _ = judge((s, {"g/sigma0/fc": v}) for s, v in enumerate(values))
  assert [(d.step, d.level) for d in decisions] == [(22, "rollback")]


def test_values_that_are_not_numbers_are_skipped_and_noted():
  odd = ["text", None, True, [1.0], {"a": 1}, 1 + 2j]
  run = ((s, r | {"g/diversity": odd[s % 6]}) for s, r in rows(steps=400))
  decisions, verdict = judge(run)
  assert decisions == []
  assert len(verdict.notes) == 1


def test_rows_whose_steps_do_not_advance_are_skipped():
  verdict = Verdict(VerdictSpec())
  verdict.update(10, {"d/loss": 1.0})
  assert verdict.update(10, {"d/loss": math.nan}).level == "ok"
  assert verdict.update(9, {"d/loss": math.nan}).level == "ok"
  assert verdict.ignored == 2
  assert verdict.update(10, {"g/loss": math.nan}).level == "rollback"
  assert verdict.ignored == 2


@pytest.mark.parametrize(
  ("name", "sign"), [("eval/fd_classifier", 1), ("eval/inception_score", -1)]
)
def test_scores_in_a_second_row_of_the_same_step_count(name, sign):
  verdict = Verdict(VerdictSpec())
  levels = []
  scores = [40.0, 20.0, 11.0, 8.0, 9.0, 8.0, 8.5, 8.2, 60.0, 75.0]
  for index, score in enumerate(scores):
    step = 500 + 100 * index
    verdict.update(step, {"d/loss": 0.6})
    value = score if sign > 0 else 100 / score
    levels.append(verdict.update(step, {name: value}).level)
  assert levels[:9] == ["ok"] * 9
  assert levels[9] != "ok"
  better = Verdict(VerdictSpec())
  for index, score in enumerate(scores):
    value = 100 / score if sign > 0 else score
    level = better.update(500 + 100 * index, {name: value}).level
  assert level == "ok"


@pytest.mark.parametrize(
  ("fault", "cut"),
  [("g_lr", 150), ("mode_collapse", AT + 35), ("one_layer", AT + 95)],
)
def test_a_resumed_verdict_makes_the_same_decisions(fault, cut):
  run = list(rows(FAULTS[fault]))
  verdict = Verdict(VerdictSpec(), [400])
  straight = [verdict.update(*item) for item in run]
  before = Verdict(VerdictSpec(), [400])
  for item in run[:cut]:
    before.update(*item)
  state = json.loads(json.dumps(before.get_state(), allow_nan=False))
  after = Verdict(VerdictSpec(), [400])
  after.set_state(state)
  assert [after.update(*item) for item in run[cut:]] == straight[cut:]
  assert after.get_state() == verdict.get_state()


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("rows_before", [1, 30])
def test_settings_may_change_after_a_resume(columns, rows_before):
  rng = random.Random(0)
  run = [
    (step, {f"d/loss{i}": rng.gauss(1, 0.1) for i in range(columns)})
    for step in range(rows_before + 60)
  ]
  straight = Verdict(VerdictSpec())
  for item in run[:rows_before]:
    straight.update(*item)
  resumed = Verdict(VerdictSpec())
  resumed.set_state(json.loads(json.dumps(straight.get_state())))
  for verdict in (straight, resumed):
    verdict.quiet_until(rows_before + 5)
  for item in run[rows_before:]:
    assert resumed.update(*item) == straight.update(*item)
  assert resumed.get_state() == straight.get_state()


def test_nothing_is_compared_across_a_declared_change():
  verdict = Verdict(VerdictSpec())
  levels = {}
  for step, row in rows(FAULTS["one_layer"], tau=5.0):
    if step == AT + 40:
      assert verdict.update(step, row).level == "rollback"
      verdict.quiet_until(step + 50)
    levels[step] = verdict.update(step, row).level
  assert set(list(levels.values())[AT + 40 :]) == {"ok"}


def test_the_delay_in_rows_does_not_depend_on_their_spacing():
  change = {"g/sigma0/layer7": 1.2}
  sparse = ((100 * s, r) for s, r in rows(change, at=AT, tau=40.0))
  alarm = first(judge(sparse)[0], "rollback")
  assert 100 * AT < alarm.step <= 100 * (AT + 60)


@pytest.mark.parametrize("name", ["d/weight_norm", "g/weight_norm"])
def test_frozen_weights_are_an_alarm(name):
  frozen = {}

  def run():
    for step, row in rows(steps=AT + 40):
      if step >= AT:
        row[name] = frozen.setdefault(name, row[name])
      yield step, row

  alarm = first(judge(run())[0], "rollback")
  assert AT < alarm.step <= AT + 8
  assert alarm.onset == AT
  assert alarm.reasons[0] == (
    name,
    frozen[name],
    None,
    "repeats the same value",
  )


def test_weights_that_come_to_rest_are_not_frozen():
  """A cosine schedule to 0: at last, float32 does not resolve the changes."""
  rng, norm, run = random.Random(0), 20.0, []
  for step in range(3000):
    rate = 0.5 * (1 + math.cos(math.pi * step / 2900)) if step < 2900 else 0.0
    norm += 1e-3 * rate * (1 + rng.gauss(0, 0.3))
    rounded = struct.unpack("f", struct.pack("f", norm))[0]
    run.append((step, {"g/weight_norm": rounded}))
  assert judge(run)[0] == []


def test_rounded_values_that_repeat_are_not_frozen():
  rng = random.Random(0)
  run = (
    (step, {"g/weight_norm": round(20 + 0.001 * step + 0.1 * rng.random(), 1)})
    for step in range(3000)
  )
  assert judge(run)[0] == []


def test_single_columns_warn_and_roll_back_by_themselves():
  explosion = {"g/sigma0/layer7": 3.0}
  run = (
    (s, {"G_linear.sv0": r["g/sigma0/layer7"]})
    for s, r in rows(explosion)
    if "g/sigma0/layer7" in r
  )
  assert first(judge(run)[0], "rollback").onset >= AT - INTERVAL
  loss = ((s, {"D_loss": r["d/loss"]}) for s, r in rows({"d/loss": 5.0}))
  assert first(judge(loss)[0], "rollback").onset >= AT - INTERVAL


def test_changes_in_a_good_direction_are_no_evidence():
  better = {
    "g/pixel_distance": -3.0,
    "g/diversity": 1.0,
    "g/effective_rank": 2.0,
    "d/heldout_gap": -3.0,
  }
  assert judge(rows(better))[0] == []


def test_unknown_columns_do_not_make_a_warning_of_losses_a_rollback():
  losses = {"d/loss": 1.5, "g/loss": 1.0}

  def run():
    for step, row in rows(losses):
      shift = 5.0 * (step >= AT)
      yield step, row | {"x": shift + random.Random(step).random()}

  assert first(judge(run())[0], "rollback") is None


_NOISE = (
  ("d/loss", 0.0),
  ("g/sigma0/a", 0.9),
  ("g/diversity", 0.3),
  ("x1", 0.99),
)


@pytest.mark.parametrize(
  ("name", "phi", "number"),
  [
    *((name, phi, 2000) for name, phi in _NOISE),
    *(
      pytest.param(name, phi, 10_000, marks=pytest.mark.slow)
      for name, phi in itertools.product(
        ("d/loss", "g/sigma0/a", "g/diversity", "x1"), (0.0, 0.3, 0.9, 0.99)
      )
    ),
  ],
)
def test_stationary_noise_causes_at_most_one_rollback_in_10000_rows(
  name, phi, number
):
  rng = random.Random(f"{phi}{name}")
  x = rng.gauss(0, 1)
  run = []
  for step in range(number):
    x = phi * x + math.sqrt(1 - phi**2) * rng.gauss(0, 1)
    positive = "/" in name and name != "d/loss"
    run.append((step, {name: 2 * math.exp(0.05 * x) if positive else x}))
  alarms = [d for d in judge(run)[0] if d.level == "rollback"]
  assert len(alarms) <= (1 if phi else 0)


def test_a_state_of_an_earlier_version_is_ignored():
  verdict = Verdict(VerdictSpec())
  verdict.set_state({"last": 70, "trackers": {}, "level": "stop"})
  assert verdict.update(71, {"d/loss": 0.5}).level == "ok"
  assert "earlier version" in verdict.notes[0]


@pytest.mark.parametrize(
  "broken",
  [
    {"warmup": -1},
    {"quiet": -1},
    {"warn_rows": 10},
    {"rollback_rows": 1000.0},
    {"rollback_rows": math.nan},
    {"smallest_rise": 0.0},
  ],
)
def test_an_invalid_spec_is_refused(broken):
  with pytest.raises(SpecError, match=rf"monitor.verdict.{next(iter(broken))}"):
    VerdictSpec(**broken)


def known(**evidence):
  """Returns columns of comparisons with the anchor, material ones."""
  sizes = {f"anchor/size/{name}": 0.5 for name in evidence}
  return {f"anchor/data/{n}": x for n, x in evidence.items()} | sizes


def test_evidence_of_the_anchor_counts_during_the_warm_up():
  verdict = Verdict(VerdictSpec(warmup=1000))
  for step in range(20):
    assert verdict.update(step, known(pixels=1.0)).level == "ok"
  decision = verdict.update(20, known(pixels=40.0))
  assert decision.level == "rollback"
  # The last normal comparison is not trusted.
  assert decision.onset == 18
  assert decision.reasons[0].value == 0.5


@pytest.mark.parametrize("step", [50, 400])
@pytest.mark.parametrize(
  "row",
  [
    known(pixels=40.0) | {"anchor/size/pixels": 0.05},
    {"anchor/slight/astray": 100.0, "anchor/size/astray": 0.5},
  ],
)
def test_slight_differences_only_warn(step, row):
  verdict = Verdict(VerdictSpec(warmup=200))
  for past in range(step):
    verdict.update(past, {"d/loss": math.sin(past), "g/loss": math.cos(past)})
  assert verdict.update(step, row).level == "warn"
  verdict.quiet_until(step + 20)
  assert verdict.update(step + 1, row).level == "warn"


def test_evidence_of_the_anchor_ends_with_its_columns():
  verdict = Verdict(VerdictSpec(warmup=1000))
  for step in range(0, 100, 10):
    verdict.update(step, known(pixels=0.0))
  assert verdict.update(100, known(pixels=40.0)).level == "rollback"
  for step in range(101, 140):
    decision = verdict.update(step, {"d/loss": 0.5 + 0.01 * (step % 3)})
  assert decision.level == "ok"


def test_evidence_of_the_anchor_is_part_of_the_state():
  one, two = Verdict(VerdictSpec()), Verdict(VerdictSpec())
  for step in range(30):
    one.update(step, known(pixels=0.1, oddness=0.2))
  two.set_state(json.loads(json.dumps(one.get_state())))
  row = known(pixels=30.0, oddness=2.0)
  assert one.update(30, row) == two.update(30, row)


def test_scores_of_a_broken_step_do_not_repeat_its_alarm():
  verdict = Verdict(VerdictSpec(warmup=0))
  for step in range(60):
    verdict.update(step, {"d/loss": 0.5 + 0.01 * (step % 3)})
  assert verdict.update(60, {"d/loss": math.nan}).new
  assert not verdict.update(60, {"eval/fid": 50.0}).new
  decision = verdict.update(61, {"d/loss": math.nan})
  assert not decision.new
  assert decision.level == "rollback"
