"""Reports and the tables of sweeps name missing scores."""

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


def test_each_missing_score_is_reported_once(tmp_path):
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
    "fd_classifier is missing at 2 evaluations, the last at step 20; there is "
    "no newer value: <no> memory"
  )
  page = write_report(tmp_path).read_text()
  assert "kid_classifier is missing at step 20; there is no newer" in page
  assert "&lt;no&gt; memory" in page


def test_a_later_evaluation_may_have_the_score(tmp_path):
  # The columns of this score do not have its name.
  rows = [(10, {"d/loss": 1.0}), (20, {"eval/precision_classifier": 0.5})]
  (missing,) = written(tmp_path, rows, [(10, "pr_classifier")])
  assert not missing.at_end
  assert "no newer" not in missing.as_text()


def test_a_failure_before_a_success_at_the_same_step_is_ignored(tmp_path):
  rows = [(10, {"eval/fd_classifier": 1.0})]
  assert written(tmp_path, rows, [(10, "fd_classifier")]) == []


def test_invalid_events_are_ignored(tmp_path):
  rows = [(10, {"d/loss": 1.0})]
  found = written(tmp_path, rows, [(None, "fd_classifier"), (10, 7), (10, "x")])
  assert [missing.score for missing in found] == ["x"]
