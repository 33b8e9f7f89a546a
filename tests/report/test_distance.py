"""The distance that a report shows first."""

from bigscale.report.distance import distance_of
from bigscale.report.facts import best_evaluation, cards
from bigscale.report.read import read_run
from bigscale.train.writers import JsonLines


def evaluated(run_dir, step, **scores):
  row = {"step": step, "kimg": step / 10, "seconds": 900.0, "attempt": 0}
  JsonLines(run_dir / "metrics.jsonl").write(
    row | {f"eval/{name}": value for name, value in scores.items()}
  )


def forget_classifier(run_dir):
  """Removes the rows with scores of the classifier."""
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  kept = [line for line in lines if "fd_classifier" not in line]
  (run_dir / "metrics.jsonl").write_text("\n".join([*kept, ""]))


def test_the_classifier_distance_has_its_reference_levels(run_dir):
  distance = distance_of(read_run(run_dir))
  assert distance.scalar == "eval/fd_classifier"
  assert distance.floor == 2.0
  assert list(distance.levels.values()) == [2.0, 60.0, 45.0]
  assert all("fd_" not in label for label in distance.levels)


def test_a_run_without_a_classifier_shows_another_distance(run_dir):
  forget_classifier(run_dir)
  for step, score in ((110, 31.0), (120, 30.0), (130, 33.0)):
    evaluated(run_dir, step, kid_inception=0.1, fid_inception=score)
  JsonLines(run_dir / "events.jsonl").write(
    {"event": "reference", "step": 110, "fid_inception_floor": 3.0}
  )
  run = read_run(run_dir)
  assert distance_of(run).scalar == "eval/fid_inception"
  assert distance_of(run).floor == 3.0
  (card,) = [card for card in cards(run) if card.label == "FID"]
  assert card.value == "33"
  assert "best 30" in card.remark
  assert best_evaluation(run) == 1


def test_scores_whose_names_have_a_common_prefix_are_distinguished(run_dir):
  forget_classifier(run_dir)
  evaluated(
    run_dir,
    110,
    fd_infinity_standard_error_inception=0.1,
    fd_infinity_inception=20.0,
    fid_inception_clean=32.0,
    fid_inception=31.0,
  )
  floors = {
    "fid_inception_floor": 3.0,
    "fid_inception_clean_floor": 4.0,
    "fd_infinity_inception_floor": 1.0,
  }
  JsonLines(run_dir / "events.jsonl").write(
    {"event": "reference", "step": 110, **floors}
  )
  distance = distance_of(read_run(run_dir))
  assert distance.scalar == "eval/fid_inception"
  assert list(distance.levels.values()) == [3.0]


def test_a_standard_error_is_not_a_distance(run_dir):
  forget_classifier(run_dir)
  evaluated(
    run_dir,
    110,
    fd_infinity_standard_error_inception=0.1,
    fd_infinity_inception=20.0,
  )
  distance = distance_of(read_run(run_dir))
  assert distance.scalar == "eval/fd_infinity_inception"
  assert distance.title == "FID-infinity"
