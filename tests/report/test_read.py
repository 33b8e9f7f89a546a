import json
import math
import pathlib

import pytest

from bigscale.report import ReportError
from bigscale.report.read import read_run
from bigscale.train import sealed
from bigscale.train.writers import JsonLines


def _run_of(tmp_path, rows):
  metrics = JsonLines(tmp_path / "metrics.jsonl")
  for row in rows:
    metrics.write({"kimg": row["step"] / 10, "attempt": 0} | row)
  return read_run(tmp_path)


def test_a_complete_run_is_read(run_dir):
  run = read_run(run_dir)
  assert run.setting("model.name") == "biggan"
  assert run.setting("optim.d_steps") == 2
  assert run.setting("model.nonsense.deeper") is None
  assert run.series("eval/fd_classifier") == ([2.0, 10.0], [40.0, 8.0])
  assert run.reference["fd_classifier_blurred_reals"] == 45.0
  assert [sample.step for sample in run.samples] == [10, 50, 100]
  assert [sample.kimg for sample in run.samples] == [1.0, 5.0, 10.0]
  assert run.seconds == 201.0
  assert run.abandoned == []
  assert run.notes == []


def test_names_are_the_names_of_scalars_in_order(run_dir):
  names = read_run(run_dir).names()
  assert names[:2] == ["d/loss", "g/loss"]
  assert "eval/label_agreement" in names
  assert not {"step", "kimg", "seconds", "attempt"} & set(names)


def test_a_rollback_abandons_rows_of_earlier_attempts(tmp_path):
  run = _run_of(
    tmp_path,
    [
      {"step": 10, "x": 1},
      {"step": 20, "x": 2},
      {"step": 30, "x": 3},
      {"step": 20, "x": 4, "attempt": 1},
      {"step": 30, "x": 5, "attempt": 1},
      {"step": 30, "x": 6, "attempt": 2},
      {"step": 40, "x": 7, "attempt": 2},
    ],
  )
  assert run.series("x")[1] == [1, 4, 6, 7]
  abandoned = [[row["x"] for row in rows] for rows in run.abandoned]
  assert abandoned == [[2, 3], [5]]


def test_a_rollback_to_the_start_abandons_all_rows(tmp_path):
  run = _run_of(
    tmp_path,
    [
      {"step": 10, "x": 1},
      {"step": 20, "x": 2, "attempt": 1},
      {"step": 10, "x": 3, "attempt": 2},
    ],
  )
  assert run.series("x")[1] == [3]


def test_a_rollback_abandons_rows_before_its_attempt_has_any(rolled_back):
  path = rolled_back / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(a for a in lines if json.loads(a)["attempt"] == 0))
  run = read_run(rolled_back)
  assert run.rows[-1]["step"] == 50
  assert [[a["step"] for a in rows] for rows in run.abandoned] == [[60, 70, 80]]


def test_events_that_a_restart_discarded_are_not_in_the_history(rolled_back):
  events = JsonLines(rolled_back / "events.jsonl")
  # The second attempt saved no state, so the first one resumes.
  events.write({"event": "start", "step": 40, "attempt": 0})
  events.write({"event": "verdict", "step": 60, "attempt": 0, "level": "warn"})
  run = read_run(rolled_back)
  known = [(event["event"], event.get("step")) for event in run.history]
  assert known == [
    ("start", None),
    ("reference", 0),
    ("start", 40),
    ("verdict", 60),
  ]
  assert len(run.events) == 8


def test_a_rollback_is_kept_if_its_restored_state_is_kept(rolled_back):
  start = {"event": "start", "step": 55, "attempt": 1}
  JsonLines(rolled_back / "events.jsonl").write(start)
  kinds = [event["event"] for event in read_run(rolled_back).history]
  assert kinds[-2:] == ["rollback", "start"]
  assert kinds.count("verdict") == 2


def test_kimg_per_step_comes_from_the_spec_or_the_rows(run_dir):
  assert read_run(run_dir).kimg_per_step == 0.1
  (run_dir / "spec.json").unlink()
  assert read_run(run_dir).kimg_per_step == 0.1
  (run_dir / "metrics.jsonl").write_text("")
  assert read_run(run_dir).kimg_per_step is None


def test_wall_time_is_the_sum_over_restarts(tmp_path):
  seconds = [5.0, 100.0, 3.0, 50.0, 50.0, 2.0]
  rows = [{"step": i, "seconds": s} for i, s in enumerate(seconds)]
  assert _run_of(tmp_path, rows).seconds == 152.0


def test_non_finite_numbers_are_restored(tmp_path):
  run = _run_of(tmp_path, [{"step": 1, "x": math.nan, "y": -math.inf}])
  assert math.isnan(run.series("x")[1][0])
  assert run.series("y")[1] == [-math.inf]


def test_only_an_incomplete_last_line_is_ignored_without_a_note(run_dir):
  path = run_dir / "metrics.jsonl"
  whole = path.read_text()
  path.write_text(whole + '{"step": 110, "kim')
  run = read_run(run_dir)
  assert run.rows[-1]["step"] == 100
  assert run.notes == []
  path.write_text("\x00\x00\n[1]\n" + whole)
  run = read_run(run_dir)
  assert len(run.rows) == 12
  assert run.notes == ["metrics.jsonl has unreadable lines: 2."]


def test_kimg_comes_from_the_spec_if_rows_lack_it(run_dir):
  (run_dir / "metrics.jsonl").write_text('{"step": 30, "d/loss": 1.0}\n')
  # Each step has two D updates of 50 images.
  assert read_run(run_dir).series("d/loss") == ([3.0], [1.0])


def test_metrics_alone_make_a_run(tmp_path):
  run = _run_of(tmp_path, [{"step": 10, "x": 1}])
  assert run.series("x") == ([1.0], [1])
  assert run.spec == {}
  assert run.notes == ["spec.json is missing, so the settings are unknown."]


def test_a_broken_spec_is_noted_and_the_rest_is_read(run_dir):
  (run_dir / "spec.json").write_text('{"spec": {')
  run = read_run(run_dir)
  assert run.notes[0].startswith("spec.json cannot be read")
  assert len(run.rows) == 12


@pytest.mark.parametrize("corrupt", [False, True])
def test_changed_contents_of_the_spec_are_noted(tmp_path, corrupt):
  content = sealed.seal({"spec": {"seed": 1}, "versions": {}, "command": []})
  if corrupt:
    content["spec"]["seed"] = 3
  (tmp_path / "spec.json").write_text(json.dumps(content))
  notes = " ".join(read_run(tmp_path).notes)
  assert ("spec.json is corrupt" in notes) == corrupt


def test_files_that_are_not_samples_are_ignored(run_dir):
  (run_dir / "samples" / "000060.png").write_bytes(b"not an image")
  (run_dir / "samples" / ".000070.png.1.partial").write_bytes(b"\x89PN")
  (run_dir / "samples" / "notes.png").write_bytes(b"mine")
  run = read_run(run_dir)
  assert [sample.step for sample in run.samples] == [10, 50, 100]
  assert run.notes == ["samples/000060.png is not a PNG image."]


def test_a_missing_folder_is_an_error_with_a_remedy(tmp_path):
  with pytest.raises(ReportError, match=r"nowhere is not a folder.*--workdir"):
    read_run(tmp_path / "nowhere")


def test_a_folder_without_a_run_is_an_error_with_a_remedy(tmp_path):
  (tmp_path / "other.json").write_text(json.dumps({}))
  with pytest.raises(ReportError, match=r"contains no run.*--workdir"):
    read_run(pathlib.Path(tmp_path))
