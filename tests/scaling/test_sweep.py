"""Tests of expanding, running and collecting sweeps."""

import csv
import dataclasses
import importlib
import json
import pathlib
from typing import NamedTuple

import numpy as np
import pytest

from bigscale.report.read import Run as Record
from bigscale.scaling import collect, runs, sweep
from bigscale.spec import SpecError, from_config, to_json
from tests.e2e import tiny
from tests.scaling import tiny_runs

ROOT = pathlib.Path(__file__).parent.parent.parent


def settings(**blocks):
  return {"base": tiny.get_config(), "blocks": blocks}


WIDTHS = {
  "8": {"model.widths": (16, 8), "optim.g_lr": 2e-3},
  "16": {"model.widths": (16, 16)},
}


def test_a_block_is_all_combinations_of_its_axes():
  found = sweep.expand(settings(grid={"width": WIDTHS, "seed": [0, 1, 2]}))
  assert [run.name for run in found] == [
    f"width-{width}_seed-{seed}" for width in (8, 16) for seed in range(3)
  ]
  first, last = found[0].spec, found[-1].spec
  assert (first.optim.g_lr.first, last.optim.g_lr.first) == (2e-3, 1e-3)
  assert (first.model.widths, last.model.widths) == ((16, 8), (16, 16))
  assert (first.seed, last.seed) == (0, 2)
  assert found[-1].values == {"width": "16", "seed": "2"}


def test_a_run_in_two_blocks_is_made_once():
  found = sweep.expand(
    settings(
      batch={"global_batch_size": [4, 8], "seed": [0]},
      seeds={"seed": [0, 1]},
    )
  )
  assert [(run.name, run.blocks) for run in found] == [
    ("global_batch_size-4_seed-0", ("batch",)),
    ("global_batch_size-8_seed-0", ("batch", "seeds")),
    ("seed-1", ("seeds",)),
  ]


SHIPPED = [
  importlib.import_module(f"configs.sweeps.{path.stem}")
  for path in (ROOT / "configs" / "sweeps").glob("*.py")
  if path.stem != "__init__"
]


@pytest.mark.parametrize("module", SHIPPED, ids=lambda m: m.__name__)
def test_test_configs_of_shipped_sweeps_have_the_same_runs(module):
  full = sweep.expand(module.get_config())
  small = sweep.expand(module.get_test_config())
  assert [run.name for run in full] == [run.name for run in small]
  assert max(run.spec.total_steps for run in small) <= 8


def test_names_are_valid_folder_names():
  (run,) = sweep.expand(settings(a={"model.widths": [(16, 8)]}))
  assert run.name == "widths-16+8"
  (run,) = sweep.expand(settings(a={"data": {"a/b c": {"seed": 3}}}))
  assert run.name == "data-a-b-c"


@pytest.mark.parametrize(
  ("config", "words"),
  [
    ({"base": {}}, "a sweep config needs the keys base and blocks"),
    (settings(), "has no runs"),
    (settings(a={}), "must have axes"),
    (settings(a={"seed": []}), "must have axes, each with at least one value"),
    (settings(a={"seed": 3}), "must be a list of values"),
    (settings(a={"modle.widths": [(8, 8)]}), "no group 'modle'"),
    (settings(a={"model.width": [3]}), "run width-3 of .* unknown key"),
    (settings(a={"global_batch_size": [0]}), "run global_batch_size-0 of"),
    (
      settings(a={"seed": {"s": {"seed": 1}}}, b={"seed": {"s": {"seed": 2}}}),
      "two different runs are both named seed-s",
    ),
  ],
)
def test_invalid_sweeps_are_refused(config, words):
  with pytest.raises(SpecError, match=words):
    sweep.expand(config)


def test_parts_cover_all_runs():
  found = sweep.expand(settings(a={"seed": list(range(5))}))
  shares = [runs.part(found, k, 2) for k in (1, 2)]
  assert [len(share) for share in shares] == [3, 2]
  assert {run.name for share in shares for run in share} == {
    run.name for run in found
  }


def recorded(scores, floor=1.5, spec=None):
  rows = [
    {"step": step, "kimg": step / 100, "eval/fd_classifier": score}
    for step, score in scores
  ]
  start = {"event": "start", "dataset_images": 777}
  reference = {
    "event": "reference",
    "fd_classifier_floor": floor,
    # Number of training images of the reference.
    "num_train": 500,
    "protocol": {"networks": {"classifier": {"fingerprint": "abc"}}},
  }
  blank = {field.name: None for field in dataclasses.fields(Record)}
  own = to_json(spec or from_config(tiny.get_config().to_dict() | {"seed": 4}))
  about = {"spec": own, "rows": rows, "events": [start, reference]}
  return Record(**{**blank, **about})


def say(folder, event, step):
  """Writes an event, as the training loop does."""
  with (folder / "events.jsonl").open("a") as file:
    file.write(json.dumps({"event": event, "step": step, "why": "x"}) + "\n")


def row(tmp_path, scores, outcome=("done", 24)):
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  if outcome == "failed":
    (folder / "failed.txt").write_text("OSError: disk on fire")
  elif outcome:
    say(folder, *outcome)
  return collect.row_of(tmp_path, run, recorded(scores))


def test_a_row_has_the_properties_and_scores_of_its_run(tmp_path):
  found = row(tmp_path, [(8, 9.0), (16, 4.0), (24, 5.0)])
  assert found["status"] == "done"
  assert found["collapsed_step"] is None
  assert (found["fd_classifier"], found["best_fd_classifier"]) == (5.0, 4.0)
  assert found["floor_fd_classifier"] == 1.5
  assert (found["images"], found["steps"], found["seed"]) == (192, 24, 4)
  assert found["dataset_images"] == 777
  assert found["parameters"] == found["parameters_g"] + found["parameters_d"]
  assert found["features"] == "classifier@abc"


def test_a_run_that_does_not_recover_has_collapsed_with_a_bound(tmp_path):
  found = row(tmp_path, [(8, 4.0), (16, 9.0), (24, 30.0)])
  assert (found["status"], found["collapsed_step"]) == ("collapsed", 16)
  assert found["collapsed_by"] == "score"
  assert found["fd_classifier"] == found["best_fd_classifier"] == 4.0


def test_curves_have_scores_by_step(tmp_path):
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  scores = [(8, 4.0), (16, 9.0), (24, 30.0)]
  ended = row(tmp_path, scores)
  curve = collect.curve_of(run, recorded(scores), ended)
  assert [(r["step"], r["images"], r["status"]) for r in curve] == [
    (8, 64, "done"),
    (16, 128, "collapsed"),
    (24, 192, "collapsed"),
  ]
  assert curve[0]["flops"] == pytest.approx(ended["flops"] / 3)
  for name in ("run", "seed", "parameters", "dataset_images"):
    assert {r[name] for r in curve} == {ended[name]}


def test_a_missing_final_score_is_named_and_not_replaced(tmp_path):
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  say(folder, "done", 24)
  record = recorded([(8, 9.0), (16, 4.0)])
  failed = {"event": "score_failed", "step": 24, "score": "fd_classifier"}
  record.events.append(failed | {"error": "no memory"})
  found = collect.row_of(tmp_path, run, record)
  assert found["status"] == "done"
  assert found["fd_classifier"] is None
  assert found["missing_scores"] == "fd_classifier"
  assert found["best_fd_classifier"] == 4.0
  assert [row["step"] for row in collect.curve_of(run, record, found)] == [
    8,
    16,
  ]
  # A missing score of an earlier evaluation is only a gap in the curve.
  record.events[-1]["step"] = 12
  found = collect.row_of(tmp_path, run, record)
  assert found["fd_classifier"] == 4.0
  assert "missing_scores" not in found


def test_a_run_that_recovers_has_not_collapsed(tmp_path):
  assert row(tmp_path, [(8, 4.0), (16, 9.0), (24, 5.0)])["status"] == "done"


def test_a_run_whose_discriminator_died_has_collapsed(tmp_path):
  dead = {"d/grad_norm": 0.0, "d/logit_real": 0.1, "d/logit_fake": 0.1}
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  say(folder, "done", 24)
  record = recorded([(8, 4.0), (16, 3.0), (24, 3.5)])
  record.rows.extend({"step": step, **dead} for step in (14, 18, 24))
  found = collect.row_of(tmp_path, run, record)
  assert (found["status"], found["collapsed_step"]) == ("collapsed", 14)
  assert found["collapsed_by"] == "dead D"
  assert found["fd_classifier"] == 4.0


def test_a_run_that_ended_early_collapsed_at_its_end(tmp_path):
  found = row(tmp_path, [(8, 4.0)], ("lost", 11))
  assert (found["status"], found["collapsed_step"]) == ("collapsed", 11)
  assert found["collapsed_by"] == "end"
  assert found["fd_classifier"] == 4.0


@pytest.mark.parametrize(
  ("outcome", "status"),
  [("failed", "failed"), (None, "running"), (("done", 16), "running")],
)
def test_other_outcomes_are_distinguished(tmp_path, outcome, status):
  assert row(tmp_path, [(8, 4.0), (16, 90.0)], outcome)["status"] == status


def test_a_run_that_was_lost_and_then_done_is_done(tmp_path):
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  say(folder, "lost", 9)
  assert runs.outcome_of(tmp_path, run) == ("lost", 9, "x")
  assert runs.is_over(tmp_path, run)
  say(folder, "done", 24)
  assert runs.outcome_of(tmp_path, run).status == "done"


def test_a_run_with_increased_batch_size_is_done_in_fewer_steps(
  tmp_path,
):
  (run,) = sweep.expand(settings(a={"seed": [4]}))
  folder = runs.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  size = run.spec.images_per_step
  pieces = [[0, size], [2, 2 * size], [4, size]]
  event = {"event": "start", "step": 4, "batches": pieces}
  (folder / "events.jsonl").write_text(json.dumps(event) + "\n")
  say(folder, "done", run.spec.total_steps - 3)
  assert runs.outcome_of(tmp_path, run) is None
  say(folder, "done", run.spec.total_steps - 2)
  assert runs.is_over(tmp_path, run)


def test_tables_have_all_columns_and_empty_cells():
  text = collect.as_csv([{"a": 1, "b": None}, {"a": 0.1234567, "c": "x"}])
  assert list(csv.reader(text.splitlines())) == [
    ["a", "b", "c"],
    ["1", "", ""],
    ["0.123457", "", "x"],
  ]


def test_a_sweep_skips_finished_runs_and_resumes_others(tmp_path, monkeypatch):
  planned = sweep.expand(settings(a={"seed": [0, 1, 2, 3]}))
  tried = []

  def train(spec, folder, command, prepared):
    tried.append(spec.seed)
    assert prepared.built.spec == spec
    folder.mkdir(parents=True, exist_ok=True)
    if spec.seed == 1 and tried.count(1) == 1:
      raise OSError("disk on fire")
    if spec.seed == 2:
      say(folder, "lost", 7)
      raise runs.DivergedError(7, "d/loss is nan")
    if spec.seed == 3:
      raise SpecError("not with this data")
    say(folder, "done", spec.total_steps)
    return tiny_runs.trained_to(spec.total_steps)

  monkeypatch.setattr(runs.loop, "train", train)
  monkeypatch.setattr(runs, "evaluator_of", lambda spec: object())
  ended = list(runs.Runner(tmp_path).run(planned))
  assert [(o.status, o.step) for _, o in ended] == [
    ("done", 24),
    ("failed", None),
    ("lost", 7),
    ("failed", None),
  ]
  assert "disk on fire" in ended[1][1].why
  assert ended[3][1].why == "not with this data"
  told = collect.write_tables(tmp_path, planned)
  assert [row["status"] for row in told] == [
    "done", "failed", "collapsed", "failed"
  ]  # fmt: skip
  assert runs.outcome_of(tmp_path, planned[1]).status == "failed"
  again = list(runs.Runner(tmp_path).run(planned))
  assert [(run.name, o.status) for run, o in again] == [
    ("seed-1", "done"),
    ("seed-3", "failed"),
  ]
  assert tried == [0, 1, 2, 3, 1, 3]


def test_runs_with_other_seeds_and_subsets_share_step_and_evaluator(
  tmp_path, monkeypatch
):
  built, opened = [], []
  monkeypatch.setattr(
    runs.loop, "train", lambda *a, **k: tiny_runs.trained_to(24)
  )
  monkeypatch.setattr(
    runs, "evaluator_of", lambda spec: opened.append(spec) or object()
  )
  real = runs.build
  monkeypatch.setattr(
    runs, "build", lambda spec, mesh: built.append(spec) or real(spec, mesh)
  )
  planned = sweep.expand(
    settings(
      a={"seed": [0, 1], "data.subset": [100, 0]},
      b={"optim.g_lr": [1e-4]},
      c={"data.classes": [5]},
    )
  )
  assert len(list(runs.Runner(tmp_path).run(planned))) == 6
  assert len(built) == 2
  assert len(opened) == 2


def test_changed_data_gets_a_new_evaluator(tmp_path, monkeypatch):
  """Files may change during a sweep, which invalidates cached evaluators."""
  path = tmp_path / "set.npz"

  def save(value):
    images = np.full((100, 8, 8, 1), value, np.uint8)
    np.savez(path, images=images, labels=np.arange(100) % 10)

  def train(spec, *args, **kwargs):
    if spec.seed == 1:
      save(2)
    return tiny_runs.trained_to(spec.total_steps)

  opened = []
  monkeypatch.setattr(runs.loop, "train", train)
  monkeypatch.setattr(runs, "build", lambda spec, mesh: Bare(spec))
  monkeypatch.setattr(
    runs, "evaluator_of", lambda spec: opened.append(spec.seed) or object()
  )
  save(1)
  swept = settings(a={"seed": [0, 1, 2, 3]})
  swept["base"].data.source = str(path)
  assert len(list(runs.Runner(tmp_path).run(sweep.expand(swept)))) == 4
  assert opened == [0, 2]


class Bare(NamedTuple):
  """A placeholder for a compiled step."""

  spec: object
