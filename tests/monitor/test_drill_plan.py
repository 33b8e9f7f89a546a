"""Tests of the drills' plan, faults and table."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.monitor.drills import (
  batch_changes,
  faulty_step,
  interventions,
  kinds,
  rejudge,
  table,
)
from bigscale.monitor.drills.disturbances import (
  Fault,
  RepeatedBatches,
  Scene,
  Tools,
  fade,
  growth,
  ramp,
)
from bigscale.monitor.drills.kinds import CONTROLS, FAULTS, KINDS
from bigscale.monitor.drills.plan import Drill, part, plan
from bigscale.monitor.drills.runs import branch, read
from bigscale.monitor.drills.stages import WATCHED, Stage
from bigscale.spec import SpecError
from bigscale.train.disturb import Disturbance
from bigscale.train.writers import JsonLines
from bigscale.types import Batch

ROOT = pathlib.Path(__file__).parent.parent.parent
WARMUPS = {"dense": 100, "shipped": 200}


def scene(persists=False, start=10):
  return Scene(start, 1, persists, Tools(lambda knobs: None, lambda f: f))


def row(what="lr_both_10", *, seed=0, last=10.0, alarm=None, **fields):
  kind = KINDS[what]
  return {
    "name": f"{what}-{seed}-{fields.get('watch', 'dense')}",
    "what": what,
    "stage": "r3gan_8",
    "watch": "dense",
    "seed": seed,
    "fault": kind.is_fault,
    "family": kind.family,
    "seen": kind.seen,
    "from_start": kind.from_start,
    "start": 500,
    "total_steps": 1000,
    "shared_steps": 0 if kind.from_start else 500,
    "last_step": 1000,
    "ended": None,
    "dead": None,
    "alarm": None if alarm is None else {"step": alarm, "reasons": []},
    "alarms": [] if alarm is None else [alarm],
    "scores": [[400, 10.0], [500, 10.0], *([s, last] for s in LATER)],
    **fields,
  }


LATER = (600, 700, 800, 900, 1000)


def test_the_plan_is_large_enough_for_the_published_results():
  drills = plan()
  assert len({drill.name for drill in drills}) == len(drills)
  faults = [drill for drill in drills if drill.kind.is_fault]
  controls = [drill for drill in drills if not drill.kind.is_fault]
  assert len(faults) >= 120
  assert len(controls) >= 60
  unseen = {drill.what for drill in faults if not drill.kind.seen}
  assert len(unseen) >= 30
  assert {KINDS[what].family for what in unseen} == set(kinds.FAMILIES)
  healthy = sum(
    drill.total_steps
    - max(WATCHED[drill.watch].warmup, drill.start if drill.branches else 0)
    for drill in controls
  )
  assert healthy >= 30_000
  assert {drill.what for drill in drills} == set(FAULTS) | set(CONTROLS)
  assert {d.watch for d in faults} == {"dense", "shipped"}


def test_the_plan_gives_unseen_kinds_to_every_model_they_apply_to():
  dense = [d for d in plan(fault_seeds=2) if d.watch == "dense"]
  for what, kind in FAULTS.items():
    mine = [drill for drill in dense if drill.what == what]
    stages = {drill.stage for drill in mine}
    assert len(mine) == 2 * len(stages)
    once = kind.seen or kind.family in ("data", "labels")
    assert len(stages) == (1 if kind.models or once else 2)
  assert {d.what for d in plan(control_seeds=0)} == set(FAULTS)


def test_parts_cover_all_drills_and_do_not_split_a_trunk():
  drills = plan()
  parts = [part(drills, share, 2) for share in (1, 2)]
  assert sorted(d.name for p in parts for d in p) == sorted(
    d.name for d in drills
  )
  one, other = ({d.trunk for d in p} for p in parts)
  assert one
  assert other
  assert not one & other


def test_each_drill_has_its_own_reproducible_start():
  def starts():
    return {Drill("r3gan_8", "dense", "d_frozen", s).start for s in range(9)}

  assert len(starts()) > 5
  assert starts() == starts()
  assert Drill("r3gan_8", "dense", "hot_from_start", 1).start == 1


def test_a_small_batch_does_not_change_the_number_of_steps():
  stage = Stage("r3gan_8")
  small, usual = stage.spec(variant="small_batch"), stage.spec()
  assert small.total_steps == usual.total_steps == 600
  assert small.global_batch_size == usual.global_batch_size // 4
  kimgs = [spec.evaluate.kimg for spec in (small, usual)]
  assert small.count.every(kimgs[0]) == usual.count.every(kimgs[1])


def test_a_cause_that_persists_is_there_right_after_a_rollback():
  fault = Fault(scene())
  assert fault.since(9, 0) is None
  assert fault.since(12, 0) == 2
  assert fault.since(12, 1) is None
  lasting = Fault(scene(persists=True))
  assert lasting.since(9, 0) is None
  assert lasting.since(9, 1) == 0
  assert lasting.since(12, 1) == 2


def test_courses():
  assert growth(0.5, 3)(0) == 1.5
  assert growth(0.5, 3)(9) == 3
  assert [fade(4)(since) for since in (0, 3, 9)] == [0.75, 0, 0]
  assert ramp(12, 2, 10)(4) == 7


def images(seed=0):
  rng = np.random.default_rng(seed)
  return Batch(
    rng.integers(0, 256, (2, 16, 8, 8, 1), np.uint8),
    rng.integers(0, 10, (2, 16)).astype(np.int32),
  )


DATA = [k for k, v in FAULTS.items() if v.family in ("data", "labels")]


@pytest.mark.parametrize("what", DATA)
def test_a_data_fault_changes_the_batch_and_keeps_its_form(what):
  usual = images()
  before = Batch(*(x.copy() for x in usual))
  fault: Disturbance = FAULTS[what].make(scene())
  assert fault.batch(9, 0, usual) is usual
  # A second batch, because a stuck buffer repeats the first.
  fault.batch(10, 0, images(1))
  found = fault.batch(200, 0, usual)
  assert found.images.dtype == np.uint8
  assert found.labels.dtype == np.int32
  assert found.images.shape == usual.images.shape
  assert found.labels.max() < 10
  same = [(a == b).all() for a, b in zip(found, before, strict=True)]
  assert not all(same)
  for array, kept in zip(usual, before, strict=True):
    np.testing.assert_array_equal(array, kept)


def test_missing_classes_are_replaced_with_their_labels():
  usual = images()
  found = batch_changes.classes_missing(
    np.random.default_rng(0), usual.images, usual.labels, 5.0
  )
  assert found.labels.max() < 5
  pairs = zip(*map(_flat, usual), strict=True)
  known = {image.tobytes(): label for image, label in pairs}
  for image, label in zip(*map(_flat, found), strict=True):
    assert known[image.tobytes()] == label


def _flat(x):
  return x.reshape(-1, *x.shape[2:])


def test_a_repeated_buffer_repeats():
  fault = RepeatedBatches(scene(), 2, None)
  first = [fault.batch(step, 0, images(step)) for step in (10, 11)]
  again = fault.batch(12, 0, images(12))
  assert any((again.images == batch.images).all() for batch in first)


def test_rounding_to_bits():
  x = jnp.asarray([1.0, 1.25, 1.3, -0.7, 0.0])
  found = faulty_step.with_bits(x, jnp.float32(2))
  np.testing.assert_allclose(found, [1, 1, 1.5, -0.75, 0])
  exact = faulty_step.with_bits(x, jnp.float32(24))
  np.testing.assert_array_equal(exact, x)


def test_alarms_are_counted_by_outcome():
  rows = [
    row("undisturbed"),
    row("undisturbed", seed=1, alarms=[300, 700]),
    row(last=25.0, alarm=550),
    row("g_sign_wrong", last=25.0, alarm=650),
    row("d_frozen", last=25.0),
    row("beta2", last=13.0, alarm=600),
    row("bfloat16", alarm=600),
    row("d_spikes", alarm=700),
  ]
  found = table.score(rows, WARMUPS)
  rates = found["rates"]["all"]
  assert rates["faults"] == {"lost": 3, "harmed": 1, "unharmed": 1}
  assert (rates["recall"]["count"], rates["recall"]["of"]) == (2, 3)
  assert rates["in_time"]["count"] == 1
  assert rates["lead"]["median"] == 0
  assert rates["harmless_alarms"]["count"] == 1
  assert found["rates"]["unseen kinds"]["recall"]["of"] == 1
  false = found["false_alarms"]["all"]
  assert (false["count"], false["steps"]) == (3, 900 + 900 + 500)
  assert found["false_alarms"]["d_spikes"]["count"] == 1
  assert found["by_kind"]["lr_both_10"]["faults"]["lost"] == 1
  for text in (table.as_text(found), table.as_markdown(found)):
    assert "2 of 3, 67%" in text


def test_a_lost_control_has_no_healthy_steps():
  rows = [row("undisturbed"), row("half_rates", last=25.0, alarm=700)]
  found = table.score(rows, WARMUPS)
  assert found["runs"]["lost_controls"] == ["half_rates-0-dense"]
  assert found["false_alarms"]["all"]["count"] == 0


def test_other_settings_from_the_start_are_not_compared_with_the_twin():
  rows = [
    row("undisturbed"),
    row("hot_from_start", scores=[[s, 30.0] for s in LATER]),
    row("hot_g_from_start", scores=[[s, 30.0] for s in LATER], dead=850),
  ]
  made = table.Table(rows, WARMUPS)
  assert made.ends["hot_from_start-0-dense"].outcome == "unharmed"
  assert made.ends["hot_g_from_start-0-dense"].lost_step == 850


def test_a_saved_state_is_judged_against_the_twin_when_the_fault_began():
  def healthy(score, seed):
    return row(
      last=25.0, alarm=550, seed=seed, healthy={"step": 480, "score": score}
    )

  twins = [
    row("undisturbed", seed=s, scores=[[500, 10.0], [600, 9.0], [1000, 8.0]])
    for s in range(3)
  ]
  rows = [healthy(10.4, 0), healthy(10.6, 1), healthy(None, 2), *twins]
  # The level at step 500 is 9.5. Without noise, 10.45 is the limit.
  made = table.Table(rows, WARMUPS)
  assert made.noise == {"r3gan_8": 0.0}
  assert made.rates(rows)["healthy_good"]["count"] == 1


def test_recoveries_are_judged_by_means_and_by_cause():
  def recovery(last, ended=None, rollbacks=1):
    scores = [[500, 10.0], *([s, last] for s in LATER)]
    return {"scores": scores, "ended": ended, "rollbacks": rollbacks}

  def lost(**recoveries):
    return row(last=25.0, alarm=550, recovery=recoveries)

  rows = [
    row("undisturbed"),
    lost(removed=recovery(10.9), persisting=recovery(11.1)),
    lost(removed=recovery(9.0, ended=900), persisting=recovery(10.9)),
    lost(removed=recovery(9.0, rollbacks=0)),
    # There is no twin with this seed.
    lost(removed=recovery(9.0)) | {"seed": 7, "name": "alone"},
  ]
  rates = table.Table(rows, WARMUPS).rates(rows)
  assert (rates["removed"]["count"], rates["removed"]["of"]) == (1, 3)
  assert (rates["persisting"]["count"], rates["persisting"]["of"]) == (1, 2)


def test_scores_are_those_of_the_attempts_that_were_kept(tmp_path):
  lines = JsonLines(tmp_path / "metrics.jsonl")
  score = "eval/fd_classifier"
  for attempt, steps in ((0, (100, 200, 300)), (1, (200, 300))):
    for step in steps:
      value = 10.0 * attempt + step / 100
      lines.write({"step": step, "attempt": attempt, score: value})
  events = JsonLines(tmp_path / "events.jsonl")
  for step, level in ((50, "rollback"), (250, "rollback"), (260, "ok")):
    events.write(
      {"event": "verdict", "step": step, "level": level, "reasons": []}
    )
  found = read(tmp_path, first=100)
  assert found["scores"] == [(100, 1.0), (200, 12.0), (300, 13.0)]
  assert found["alarms"] == [250]
  assert found["attempts"] == 2


@pytest.mark.parametrize(
  ("before", "step"), [(250, 200), (200, 200), (199, 100), (99, 0)]
)
def test_a_branch_continues_from_the_newest_allowed_checkpoint(
  tmp_path, before, step
):
  trunk, run = tmp_path / "trunk", tmp_path / "run"
  for saved in ("100", "200", "300", "300.orbax-checkpoint-tmp-0"):
    (trunk / "checkpoints" / saved).mkdir(parents=True)
  (trunk / "metrics.jsonl").write_text('{"step": 100}\n')
  run.mkdir()
  assert branch(trunk, run, before) == step
  copied = sorted(int(x.name) for x in (run / "checkpoints").glob("*"))
  assert copied == [saved for saved in (100, 200) if saved <= step]
  assert (run / "metrics.jsonl").exists() == bool(step)


def test_another_version_judges_the_recorded_rows(tmp_path):
  recorded = row("lr_both_10", alarm=550)
  lines = JsonLines(
    tmp_path / "runs" / f"{recorded['name']}-watched" / "metrics.jsonl"
  )
  for step in range(1, 720):
    loss = float("nan") if step == 710 else 0.5 + 0.01 * (step % 7)
    values = {"d/loss": loss, "g/loss": 1.0, "data/odd": 10.0 * (step > 500)}
    lines.write({"step": step, "attempt": 0, **values})
  found = rejudge.judge(tmp_path, [recorded], ROOT)[0]
  assert found["alarm"]["step"] == 710
  assert found["alarms"] == [710]
  assert found["scores"] == recorded["scores"]
  with pytest.raises(SpecError, match="--verdict_of="):
    rejudge.judge(tmp_path, [recorded], tmp_path)


def test_every_collapse_meets_every_policy():
  cells = interventions.plan()
  assert len(cells) >= 60
  assert len({cell.name for cell in cells}) == len(cells)
  for cell in cells:
    assert cell.drill.kind.lasting
    usable = cell.drill.kind.models
    family = Stage(cell.drill.stage).family
    assert not usable or family in usable
  families = {cell.drill.kind.family for cell in cells}
  assert {"optimizer", "losses", "weights", "natural"} <= families
  halves = [interventions.part(cells, share, 2) for share in (1, 2)]
  assert sum(map(len, halves)) == len(cells)
  assert not {c.drill.trunk for c in halves[0]} & {
    c.drill.trunk for c in halves[1]
  }


def test_the_summary_of_interventions_counts_runs_that_were_rolled_back():
  def cell(policy, ratio, *, rollbacks=1, ended=None, untreated="lost"):
    return {
      **row(last=10.0),
      "policy": policy,
      "ratio": ratio,
      "rollbacks": rollbacks,
      "ended": ended,
      "untreated": {"ratio": 4.0, "outcome": untreated},
    }

  rows = [
    cell("none", 3.0),
    cell("none", 1.1, rollbacks=0),
    cell("lower_lr", 1.1),
    cell("lower_lr", 1.1, ended=700),
    cell("lower_lr", 1.1, untreated="unharmed"),
  ]
  found = interventions.summary(rows)
  saved = {k: v["saved"] for k, v in found["policies"].items()}
  assert (saved["none"]["count"], saved["none"]["of"]) == (0, 1)
  assert (saved["lower_lr"]["count"], saved["lower_lr"]["of"]) == (1, 2)
  assert found["policies"]["lower_lr"]["ended"]["count"] == 1
  text = interventions.as_markdown(found)
  assert "| lower_lr | 1 of 2, 50%" in text
  assert "1.1 (1)" in text
