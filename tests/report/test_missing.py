"""Scores that are missing are named, in reports and in tables of sweeps."""

import json

from bigscale.report import write_report
from bigscale.report.missing import missing_scores
from bigscale.report.read import read_whatever


def written(folder, rows, failed):
  (folder / "metrics.jsonl").write_text(
    "".join(
      json.dumps({"step": step, "kimg": step / 10, "attempt": 0, **scores})
      + "\n"
      for step, scores in rows
    )
  )
  (folder / "events.jsonl").write_text(
    "".join(
      json.dumps(
        {
          "event": "score_failed",
          "step": step,
          "attempt": 0,
          "score": score,
          "error": "<no> memory",
        }
      )
      + "\n"
      for step, score in failed
    )
  )
  return missing_scores(read_whatever(folder))


def test_what_is_missing_is_told_once_a_score(tmp_path):
  rows = [(10, {"eval/kid_classifier": 1.0}), (20, {"d/loss": 1.0})]
  failed = [
    (10, "fd_classifier"),
    (20, "fd_classifier"),
    (20, "kid_classifier"),
  ]
  fd, kid = written(tmp_path, rows, failed)
  assert (fd.score, fd.steps, fd.at_end) == ("fd_classifier", (10, 20), True)
  assert (kid.score, kid.steps, kid.at_end) == ("kid_classifier", (20,), True)
  assert fd.as_text() == (
    "fd_classifier is missing at 2 evaluations, the last at step 20; the run "
    "has no newer value of it: <no> memory"
  )
  page = write_report(tmp_path).read_text()
  assert "kid_classifier is missing at step 20; the run has no newer" in page
  assert "&lt;no&gt; memory" in page


def test_what_a_later_evaluation_has_is_no_end(tmp_path):
  # Of a score with columns of other names.
  rows = [(10, {"d/loss": 1.0}), (20, {"eval/precision_classifier": 0.5})]
  (missing,) = written(tmp_path, rows, [(10, "pr_classifier")])
  assert not missing.at_end
  assert "no newer" not in missing.as_text()


def test_a_step_that_was_scored_after_all_misses_nothing(tmp_path):
  rows = [(10, {"eval/fd_classifier": 1.0})]
  assert written(tmp_path, rows, [(10, "fd_classifier")]) == []


def test_odd_events_are_passed_over(tmp_path):
  rows = [(10, {"d/loss": 1.0})]
  found = written(tmp_path, rows, [(None, "fd_classifier"), (10, 7), (10, "x")])
  assert [missing.score for missing in found] == ["x"]
