"""Runs with a monitor: what they do when scalars become non-finite."""

import dataclasses
import itertools
import shutil

import jax
import numpy as np
import pytest

from bigscale.cli import main as cli
from bigscale.data.heldout import Heldout
from bigscale.metrics.evaluator import Scored
from bigscale.monitor.verdict import Decision, Verdict
from bigscale.scaling.flops import training_flops
from bigscale.spec import CheckpointSpec, EvalSpec, from_config
from bigscale.train import loop
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.diverged import DivergedError
from tests.e2e import monitored
from tests.e2e.monitored import FAULT, READ, STEPS, Ended, KilledError, run

# TARGET is the newest snapshot at least REWIND steps before the fault.
REWIND, TARGET = 3, 6
# The loop dispatches a step before the monitor judges the one before.
DISPATCHED = FAULT + 1
ROLLBACK = {"action": "rollback", "rewind": REWIND}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("monitored")


@pytest.fixture(scope="module")
def off(folder):
  return run(folder / "off", action="off")


@pytest.fixture(scope="module")
def clean(folder):
  return run(folder / "clean", action="checkpoint")


@pytest.fixture(scope="module")
def skipped(folder):
  return run(folder / "skip", faults={0: FAULT}, **ROLLBACK)


@pytest.fixture(scope="module")
def replayed(folder):
  faults = {0: FAULT}
  return run(folder / "replay", faults=faults, data="replay", **ROLLBACK)


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(np.testing.assert_array_equal, one, other)


def is_finite(state):
  leaves = jax.tree.leaves(state._replace(dials=None))
  return all(np.isfinite(leaf).all() for leaf in leaves)


def test_off_saves_no_state_and_makes_no_probes(off):
  assert not (off.path / "healthy").exists()
  assert off.kinds() == ["start", "reference", "evaluation", "done"]
  rows = off.rows(0)
  assert list(rows) == list(range(1, STEPS + 1))
  assert not any("g/diversity" in row for row in rows.values())


def test_the_monitor_does_not_affect_training(off, clean):
  assert_same(off.state, clean.state)
  assert clean.batches == off.batches
  plain = clean.rows(0)
  for step, row in off.rows(0).items():
    assert row.items() <= plain[step].items()


def test_probes_have_their_interval(clean):
  rows = clean.rows(0)
  looked = [step for step, row in rows.items() if "g/diversity" in row]
  assert looked == list(range(2, STEPS + 1, 2))
  with_spectra = [
    step for step, row in rows.items() if any("sigma" in name for name in row)
  ]
  # All written rows have singular values.
  assert with_spectra == list(rows)


def test_the_last_state_of_a_healthy_run_is_saved_as_healthy(clean):
  kinds = ["start", "reference", "evaluation", "healthy", "done"]
  assert clean.kinds() == kinds
  assert clean.saved("healthy") == [STEPS]
  restored = clean.restored(STEPS, "healthy")
  assert_same(restored.state, clean.state)
  assert restored.data == clean.restored(STEPS).data


def test_the_events_of_a_rollback(skipped):
  kinds = skipped.kinds()
  assert kinds == [
    "start", "verdict", "healthy", "rollback", "reference", "evaluation",
    "healthy", "done",
  ]  # fmt: skip
  (verdict,) = skipped.events("verdict")
  assert verdict["step"] == verdict["onset"] == FAULT
  assert verdict["level"] == "rollback"
  assert {reason["signal"] for reason in verdict["reasons"]} >= {"d/loss"}
  first, _ = skipped.events("healthy")
  assert first["of_step"] == TARGET
  (rollback,) = skipped.events("rollback")
  assert rollback["step"] == DISPATCHED
  assert rollback["to_step"] == TARGET
  assert rollback["retry"] == rollback["attempt"] == 1
  assert rollback["turned"] == {}


def test_a_run_finishes_after_a_rollback(skipped):
  assert int(skipped.state.attempt) == 1
  assert int(skipped.state.step) == STEPS
  assert is_finite(skipped.state)
  # The restored state and the last one.
  assert skipped.saved("healthy") == [TARGET, STEPS]
  healthy = skipped.restored(TARGET, "healthy")
  assert is_finite(healthy.state)
  assert int(healthy.state.step) == TARGET < FAULT
  assert int(healthy.state.attempt) == 0


def test_rows_of_both_attempts_are_kept(skipped):
  assert list(skipped.rows(0)) == list(range(1, FAULT + 1))
  assert list(skipped.rows(1)) == list(range(TARGET + 1, STEPS + 1))
  assert skipped.rows(0)[FAULT]["d/loss"] == "NaN"
  assert all(np.isfinite(r["d/loss"]) for r in skipped.rows(1).values())


def test_checkpoints_after_the_target_are_moved(skipped):
  aside = skipped.path / "abandoned" / "attempt-0" / "checkpoints"
  assert [x.name for x in aside.iterdir()] == ["8"]
  assert skipped.saved()[-2:] == [12, STEPS]
  assert int(skipped.restored(12).state.attempt) == 1


def test_skip_reads_only_new_records(skipped, off):
  (rollback,) = skipped.events("rollback")
  assert rollback["skipped"] == [TARGET * READ, DISPATCHED * READ]
  for step in range(TARGET + 1, STEPS + 1):
    shifted = step + DISPATCHED - TARGET
    if shifted <= STEPS:
      assert skipped.batches[1, step] == off.batches[0, shifted]
  known = set(off.batches.values())
  assert skipped.batches[1, STEPS] not in known
  assert skipped.restored().data["skipped"] == [rollback["skipped"]]


def test_replay_reads_the_same_records_with_other_noise(replayed, off):
  (rollback,) = replayed.events("rollback")
  assert rollback["skipped"] is None
  for step in range(TARGET + 1, STEPS + 1):
    assert replayed.batches[1, step] == off.batches[0, step]
  again, first = replayed.rows(1)[TARGET + 1], replayed.rows(0)[TARGET + 1]
  assert again["g/loss"] != first["g/loss"]
  # The weights are equal, so one step differs only by the noise.
  assert again["g/loss"] == pytest.approx(first["g/loss"], rel=0.5)


def test_rows_before_the_fault_equal_those_of_an_undisturbed_run(skipped, off):
  for step in range(1, FAULT):
    undisturbed = off.rows(0)[step]
    assert undisturbed.items() <= skipped.rows(0)[step].items()


def test_a_second_rollback_skips_the_records_of_both_attempts(folder, off):
  """The target state has no skipped records; both skips apply nevertheless."""
  twice = run(folder / "twice", faults={0: FAULT, 1: FAULT}, action="rollback")
  first, second = twice.events("rollback")
  assert (first["to_step"], second["to_step"]) == (8, 8)
  assert (first["retry"], second["retry"]) == (1, 2)
  assert first["skipped"] == [8 * READ, 11 * READ]
  assert second["skipped"] == [11 * READ, 14 * READ]
  assert twice.restored().data["skipped"] == [[8 * READ, 14 * READ]]
  read = [set(), set(), set()]
  for (attempt, step), digest in twice.batches.items():
    if step > 8:
      read[attempt].add(digest)
  for one, other in itertools.combinations(read, 2):
    assert not one & other
  assert twice.batches[2, 9] == off.batches[0, 15]
  assert int(twice.state.attempt) == 2


def test_action_checkpoint_saves_a_healthy_state_and_ends(folder):
  path = folder / "saved"
  with pytest.raises(DivergedError, match=r"step 10: d/loss is nan.*healthy/8"):
    run(path, faults={0: FAULT}, action="checkpoint")
  ended = Ended(path, None, {})
  assert ended.kinds() == ["start", "verdict", "healthy", "lost"]
  assert ended.saved("healthy") == [8]
  healthy = ended.restored(8, "healthy")
  assert is_finite(healthy.state)
  assert healthy.data["records_consumed"] == 8 * READ


@pytest.mark.parametrize("action", ["off", "log"])
def test_a_diverged_run_ends_with_every_action(folder, action):
  path = folder / f"lost_{action}"
  with pytest.raises(DivergedError, match="step 10: d/loss is nan"):
    run(path, faults={0: FAULT}, action=action)
  ended = Ended(path, None, {})
  verdict = ["verdict"] if action == "log" else []
  assert ended.kinds() == ["start", *verdict, "lost"]
  assert not (path / "healthy").exists()


def test_a_run_that_rollbacks_do_not_save_ends_with_code_3(
  folder, monkeypatch, capsys
):
  """Runs the command, because its exit code is part of the interface."""
  path = folder / "hopeless"
  faults = {attempt: FAULT for attempt in range(9)}
  plain = loop.train

  def disturbed(spec, workdir, command, init_from, **settings):
    del command, init_from, settings
    watched = monitored.Watched(faults)
    return plain(spec, workdir, prepared=monitored.prepared(spec, watched))

  monkeypatch.setattr(loop, "train", disturbed)
  settings = path.with_suffix(".py")
  settings.write_text(
    "from tests.e2e import monitored\n"
    "def get_config():\n"
    "  return monitored.config(action='rollback', retries=2)\n"
  )
  program = ["bigscale", "train", f"--config={settings}"]
  assert cli.main([*program, f"--workdir={path}"]) == 3
  said = capsys.readouterr().err
  assert "2 rollbacks did not help" in said
  assert "healthy/8" in said
  ended = Ended(path, None, {})
  assert [e["retry"] for e in ended.events("rollback")] == [1, 2]
  assert ended.saved("healthy") == [8]
  assert "done" not in ended.kinds()


def test_a_long_rewind_goes_back_to_the_start(folder):
  """If no later state is old enough, the run restarts at step 0."""
  early = run(folder / "early", faults={0: 4}, action="rollback", rewind=100)
  (rollback,) = early.events("rollback")
  assert rollback["to_step"] == 0
  assert list(early.rows(1)) == list(range(1, STEPS + 1))


def test_a_run_killed_after_a_rollback_resumes_unchanged(folder, skipped):
  """Killed twice, first before the first checkpoint of the new attempt."""
  path = folder / "killed"
  for killed_at in [(1, 8), (1, 14)]:
    with pytest.raises(KilledError):
      run(path, faults={0: FAULT}, killed_at=killed_at, **ROLLBACK)
  resumed = run(path, faults={0: FAULT}, **ROLLBACK)
  # The rollback saved the restored state with its new attempt at once.
  assert [e["step"] for e in resumed.events("start")] == [0, TARGET, 12]
  assert [e["attempt"] for e in resumed.events("start")] == [0, 1, 1]
  assert_same(resumed.state, skipped.state)
  assert resumed.rows(0) == skipped.rows(0)
  assert resumed.rows(1) == skipped.rows(1)
  one, other = resumed.restored(), skipped.restored()
  assert one.meta["monitor"]["retries"] == 1
  assert one.meta == other.meta
  assert one.data == other.data
  assert resumed.flops(1) == skipped.flops(1)


def test_abandoned_steps_count_as_spent(skipped):
  each = training_flops(from_config(monitored.config())).per_step
  abandoned = DISPATCHED - TARGET
  assert skipped.flops(0)[FAULT] == (FAULT * each, FAULT * each)
  assert skipped.flops(1) == {
    step: (step * each, (step + abandoned) * each)
    for step in range(TARGET + 1, STEPS + 1)
  }
  for folder in ("checkpoints", "healthy"):
    assert skipped.restored(folder=folder).meta["flops"] == {
      "total": STEPS * each,
      "spent": (STEPS + abandoned) * each,
      "abandoned_steps": abandoned,
    }
  # The peak FLOP/s of a CPU is unknown.
  assert not any("perf/mfu" in row for row in skipped.lines("metrics.jsonl"))


def test_an_error_in_the_monitor_does_not_end_the_run(folder, off, monkeypatch):
  def broken(self, step, row):
    raise ZeroDivisionError(step)

  monkeypatch.setattr(Verdict, "update", broken)
  ended = run(folder / "broken", action="rollback")
  assert_same(ended.state, off.state)
  (failed,) = ended.events("monitor_failed")
  assert failed["step"] == 1
  assert ended.saved("healthy") == [STEPS]


def test_an_error_in_the_verdict_does_not_hide_divergence(folder, monkeypatch):
  def broken(self, step, row):
    raise ZeroDivisionError(step)

  monkeypatch.setattr(Verdict, "update", broken)
  with pytest.raises(DivergedError, match="step 10: d/loss is nan"):
    run(folder / "broken_and_lost", faults={0: FAULT}, action="rollback")


@pytest.fixture
def alarm(monkeypatch):
  """Replaces the verdict by one that changes its level at a given step."""

  def script(level, *, at, onset):
    def update(self, step, row):
      self._last = step
      self._decision = Decision(step, "ok")
      if step >= at:
        self._decision = Decision(step, level, onset, (), step == at)
      return self._decision

    monkeypatch.setattr(Verdict, "update", update)

  return script


def train(path, watched, changes, **monitor):
  """Like `run`, but also changes settings other than the monitor's."""
  spec = from_config(monitored.config(**monitor))
  spec = dataclasses.replace(spec, **changes)
  result = loop.train(spec, path, prepared=monitored.prepared(spec, watched))
  return Ended(path, result.state, watched.batches)


def test_a_rollback_keeps_all_scores(folder, monkeypatch):
  """The best step is the rollback target, whose state is saved again."""
  # Scores of steps 3, 6 and 9, and after the rollback 9, 12, 15 and 16.
  scores = iter([5.0, 1.0, 6.0, 7.0, 8.0, 9.0, 9.0])
  monkeypatch.setattr(
    monitored.Scores,
    "compare",
    lambda self, looked: Scored({"fd_classifier": next(scores)}),
  )
  changes = {
    "evaluate": EvalSpec(kimg=3 * 8 / 1000, num_samples=4, batch_size=4),
    "checkpoint": CheckpointSpec(keep=1, keep_best=1),
  }
  faulty = monitored.Watched({0: FAULT})
  ended = train(folder / "scored", faulty, changes, **ROLLBACK)
  assert ended.events("rollback")[0]["to_step"] == TARGET
  assert ended.saved() == [TARGET, STEPS]
  assert ended.saved("abandoned/attempt-0/checkpoints") == [TARGET, 9]
  assert next(scores, None) is None


def test_a_damaged_checkpoint_is_not_a_healthy_state(folder, alarm):
  """The checkpoint before it is used; no snapshot in memory is old enough."""
  path = folder / "before_damage"
  changes = {"checkpoint": CheckpointSpec(kimg=4 * 8 / 1000, keep=4)}
  killed = monitored.Watched(killed_at=(0, 13))
  with pytest.raises(KilledError):
    train(path, killed, changes, action="checkpoint")
  shutil.rmtree(path / "checkpoints" / "8" / "state")
  alarm("rollback", at=14, onset=9)
  ended = train(path, monitored.Watched(), changes, action="checkpoint")
  (damaged,) = ended.events("damaged_checkpoint")
  assert (damaged["step"], damaged["of_step"]) == (14, 8)
  assert [event["of_step"] for event in ended.events("healthy")] == [4]
  assert ended.saved("healthy") == [4]


def test_a_run_that_ends_with_a_warning_saves_the_state_before_it(
  folder, alarm
):
  alarm("warn", at=12, onset=9)
  ended = run(folder / "doubt", action="checkpoint")
  assert ended.saved("healthy") == [8]
  (verdict,) = ended.events("verdict")
  assert (verdict["level"], verdict["onset"]) == ("warn", 9)


def test_divergence_after_an_alarm_ends_the_run(folder, alarm):
  """The first alarm did not stop the run; the verdict does not change."""
  alarm("rollback", at=6, onset=5)
  with pytest.raises(DivergedError, match=r"step 10: d/loss is nan.*healthy/4"):
    run(folder / "after", faults={0: FAULT}, action="checkpoint")


def test_an_alarm_survives_a_kill(folder, alarm):
  """States after an alarm are not healthy, for the resumed run either."""
  alarm("rollback", at=6, onset=5)
  path = folder / "alarmed"
  with pytest.raises(KilledError):
    run(path, killed_at=(0, 10), action="checkpoint")
  resumed = run(path, action="checkpoint")
  assert [e["step"] for e in resumed.events("start")] == [0, 8]
  assert [e["of_step"] for e in resumed.events("healthy")] == [4]
  assert resumed.saved("healthy") == [4]


def test_an_alarm_without_an_action_survives_a_kill(folder, monkeypatch):
  """The level is ok again at the kill, but the reference may have shifted."""

  def update(self, step, row):
    alarmed = step in (6, 7)
    level, onset = ("rollback", 5) if alarmed else ("ok", None)
    self._decision = Decision(step, level, onset, (), step in (6, 8))
    return self._decision

  monkeypatch.setattr(Verdict, "update", update)
  path = folder / "calm"
  with pytest.raises(KilledError):
    run(path, killed_at=(0, 14), action="checkpoint")
  resumed = run(path, action="checkpoint")
  assert [e["step"] for e in resumed.events("start")] == [0, 12]
  assert resumed.saved("healthy") == [4]


def test_unreadable_heldout_images_do_not_end_the_run(folder, off, monkeypatch):
  usual = Heldout.batch

  def torn(self, number):
    if number == 2:
      raise OSError("the disk is gone")
    return usual(self, number)

  monkeypatch.setattr(Heldout, "batch", torn)
  ended = run(folder / "torn", action="log")
  assert_same(ended.state, off.state)
  (failed,) = ended.events("monitor_failed")
  assert failed["step"] == 4
  assert "d/heldout_gap" in ended.rows(0)[4]


@pytest.mark.parametrize("action", ["checkpoint", "rollback"])
def test_a_full_disk_at_an_alarm_does_not_end_the_run(
  folder, off, alarm, monkeypatch, action
):
  usual = Checkpoints.save

  def full(self, step, state, *rest):
    if self._folders.path.name == "healthy":
      raise OSError("no space left on device")
    return usual(self, step, state, *rest)

  alarm("rollback", at=6, onset=5)
  monkeypatch.setattr(Checkpoints, "save", full)
  ended = run(folder / f"full_{action}", action=action)
  assert_same(ended.state, off.state)
  (failed,) = ended.events("monitor_failed")
  assert failed["step"] == 6
  assert not ended.saved("healthy")


def test_an_alarm_without_an_earlier_state_saves_and_goes_on(folder, alarm):
  """After a resume, memory and disk contain no state from before the onset."""
  path = folder / "nowhere"
  changes = {"checkpoint": CheckpointSpec(kimg=4 * 8 / 1000, keep=1)}
  killed = monitored.Watched(killed_at=(0, 13))
  with pytest.raises(KilledError):
    train(path, killed, changes, action="rollback")
  alarm("rollback", at=14, onset=9)
  ended = train(path, monitored.Watched(), changes, action="rollback")
  (nothing,) = ended.events("no_healthy_state")
  assert (nothing["step"], nothing["onset"]) == (14, 9)
  assert not ended.events("rollback")
  assert ended.kinds()[-1] == "done"
  assert int(ended.state.step) == STEPS


def test_a_checkpoint_from_before_a_suspicion_is_kept(folder, alarm):
  path = folder / "pinned"
  changes = {"checkpoint": CheckpointSpec(kimg=2 * 8 / 1000, keep=2)}
  alarm("warn", at=7, onset=5)
  ended = train(path, monitored.Watched(), changes, action="checkpoint")
  assert ended.saved() == [4, STEPS - 2, STEPS]


@pytest.mark.slow
def test_a_fault_that_takes_2000_steps_to_show(folder, alarm):
  """The run returns to before the onset, at most twice as far as it must."""
  total, onset, at = 2450, 400, 2400
  alarm("rollback", at=at, onset=onset)
  path = folder / "creeping"
  spec = from_config(
    monitored.config(
      action="rollback", retries=1, snapshot_interval=20, interval=1000
    )
  )
  changes = {"total_kimg": total * 8 / 1000, "checkpoint": CheckpointSpec()}
  spec = dataclasses.replace(spec, **changes)
  with pytest.raises(DivergedError, match="1 rollbacks did not help"):
    loop.train(spec, path, prepared=monitored.prepared(spec, Watching()))
  first = Ended(path, None, {}).events("rollback")[0]
  assert first["to_step"] <= onset
  assert at - first["to_step"] <= 2 * (at - onset) + 20


class Watching(monitored.Watched):
  """Records nothing of the batches of a long run."""

  def batch(self, step, attempt, batch):
    return batch


def test_a_run_continues_by_hand_from_a_healthy_state(skipped, folder):
  """As docs/how-to/collapse.md describes it."""
  path = folder / "by_hand"
  (path / "checkpoints").mkdir(parents=True)
  name = str(TARGET)
  shutil.copytree(skipped.path / "healthy" / name, path / "checkpoints" / name)
  shutil.copy(skipped.path / "spec.json", path)
  ended = run(path, action="checkpoint")
  assert [event["step"] for event in ended.events("start")] == [TARGET]
  assert int(ended.state.step) == STEPS
  assert is_finite(ended.state)
