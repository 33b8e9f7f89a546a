"""Tests that old scores never get new settings if a sweep config is edited."""

import csv
import json
import pathlib

import pytest

from bigscale.cli.main import main
from bigscale.scaling import collect, folders, runs, sweep
from bigscale.scaling.flops import training_flops
from bigscale.scaling.network_cost import parameters
from bigscale.spec import from_config, to_json
from bigscale.train import sealed
from tests.e2e import tiny
from tests.scaling import tiny_runs

WIDTHS = {
  "8": {"model.widths": (16, 8)},
  "16": {"model.widths": (16, 16), "optim.g_lr": 2e-3},
}
AXES = {"width": WIDTHS, "seed": [0, 1, 2]}


def base(**changes):
  settings = tiny.get_config().to_dict()
  for path, value in changes.items():
    *groups, last = path.split("__")
    below = settings
    for group in groups:
      below = below.setdefault(group, {})
    below[last] = value
  return settings


def expand(axes=AXES, **changes):
  return sweep.expand({"base": base(**changes), "blocks": {"size": axes}})


def finish(out, run, *, steps=None, spec=None, counted=None):
  """Writes the folder of a finished run."""
  folder = folders.folder_of(out, run)
  folder.mkdir(parents=True, exist_ok=True)
  tree = spec or to_json(run.spec)
  steps = steps or run.spec.total_steps
  counted = counted or parameters(run.spec.model)._asdict()
  (folder / "spec.json").write_text(json.dumps({"spec": tree}))
  events = [
    {"event": "start", "step": 0, "dataset_images": 77, "parameters": counted},
    {"event": "done", "step": steps},
  ]
  lines = [json.dumps(event) + "\n" for event in events]
  (folder / "events.jsonl").write_text("".join(lines))
  score = 100 / parameters(run.spec.model).total ** 0.3 + run.spec.seed / 100
  row = {"step": steps, "kimg": steps / 125, "eval/fd_classifier": score}
  (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")


@pytest.fixture
def swept(tmp_path, capsys, monkeypatch):
  """Six finished runs, and the command on an edited config; nothing trains."""
  for run in expand():
    finish(tmp_path / "out", run)
  folders.remember(tmp_path / "out", expand())
  monkeypatch.setattr(runs.loop, "train", lambda *a, **k: pytest.fail("ran"))

  def call(*flags, axes=AXES, **changes):
    config = tmp_path / "swept.py"
    config.write_text(
      f"BASE, AXES = {base(**changes)!r}, {axes!r}\n"
      "def get_config():\n"
      "  return {'base': BASE, 'blocks': {'size': AXES}}\n"
    )
    flags = (f"--config={config}", f"--out={tmp_path / 'out'}", *flags)
    code = main(["bigscale", "scaling", "sweep", *flags])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err

  call.out = tmp_path / "out"
  return call


def rows(out, name="runs"):
  with (out / f"{name}.csv").open() as file:
    return list(csv.DictReader(file))


EDITS = {
  "model__widths": ((32, 8), "model.widths: [16, 8] there, [32, 8] here"),
  "optim__d_lr": (2e-3, "optim.d_lr.first: 0.001 there, 0.002 here"),
  "loss__r1_gamma": (1.0, "loss.r1_gamma.first: 0.5 there, 1.0 here"),
  "data__flip": (False, "data.flip: True there, False here"),
  "data__subset": (50, "data.subset: 0 there, 50 here"),
  "global_batch_size": (4, "global_batch_size: 8 there, 4 here"),
  "evaluate__num_samples": (50, "evaluate.num_samples: 100 there, 50 here"),
  "total_kimg": (0.096, "total_kimg: 0.192 there, 0.096 here"),
  "mesh__gradient_dtype": ("bfloat16", "mesh.gradient_dtype: 'float32' there"),
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("flags", [(), ("--collect",), ("--jobs=x",)])
def test_an_edited_setting_is_refused_by_name(swept, name, flags):
  # The axis `width` sets some settings, so only others are edited.
  axes = {"seed": [0, 1, 2]}
  for run in expand(axes):
    finish(swept.out, run)
  value, said = EDITS[name]
  before = sorted(swept.out.rglob("*"))
  code, printed, error = swept(*flags, axes=axes, **{name: value})
  assert (code, printed) == (2, "")
  assert said in error
  assert "seed-0, seed-1, seed-2:" in error
  assert "--anew" in error
  assert sorted(swept.out.rglob("*")) == before


def test_an_edited_value_of_a_named_axis_is_refused(swept):
  widths = WIDTHS | {"16": {"model.widths": (16, 16), "optim.g_lr": 5e-4}}
  code, _, error = swept("--collect", axes={"width": widths, "seed": [0, 1]})
  assert code == 2
  assert "optim.g_lr.first: 0.002 there, 0.0005 here" in error
  assert "width-8_seed-0" not in error


HARMLESS = {"log__steps": 1, "checkpoint__keep": 5, "mesh__data": -1}


def test_settings_without_effect_on_results_may_be_edited(swept):
  code, printed, error = swept("--collect", **HARMLESS)
  assert (code, error) == (0, "")
  assert printed.startswith("6 runs: 6 done;")


def test_properties_come_from_the_run_s_folder(tmp_path):
  (mine,), (edited,) = (
    expand({"seed": [0]}, **changes)
    for changes in ({}, {"model__widths": (32, 8), "total_kimg": 0.096})
  )
  finish(tmp_path, mine, counted={"g": 11, "d": 22})
  (row,) = collect.write_tables(tmp_path, [edited])
  assert (row["steps"], row["images"]) == (24, 192)
  assert row["flops"] == 24 * training_flops(mine.spec).per_step
  assert (row["parameters_g"], row["parameters_d"]) == (11, 22)
  assert row["parameters"] == 33
  (curve,) = rows(tmp_path, "curves")
  assert float(curve["images"]) == 192
  assert float(curve["flops"]) == pytest.approx(row["flops"], rel=1e-5)


def test_a_longer_run_is_not_done(swept):
  code, printed, error = swept("--collect", total_kimg=0.384)
  assert code == 0
  assert printed.startswith("6 runs: 6 running;")
  assert "now ends at 0.384 kimg; it was started with 0.192" in error
  assert {row["images"] for row in rows(swept.out)} == {"192"}


def test_a_spec_of_an_older_version_is_compared_by_meaning(swept):
  (run, *_) = expand()
  older = to_json(run.spec)
  del older["operations"], older["loss"]["r2_gamma"], older["log"]["steps"]
  older["loss"]["r1_gamma"] = 0.5
  older["data"].pop("threads")
  finish(swept.out, run, spec=older)
  assert swept("--collect")[::2] == (0, "")


def test_a_setting_that_this_version_lacks_is_refused_by_name(swept):
  (run, *_) = expand()
  other = to_json(run.spec)
  other["optim"]["warp"] = 9
  finish(swept.out, run, spec=other)
  code, _, error = swept("--collect")
  assert code == 2
  assert "optim.warp: 9 there" in error


@pytest.mark.parametrize("content", ["", "{", "[]", '{"spec": 3}', "\0\0"])
def test_a_damaged_spec_is_refused(swept, content):
  (run, *_) = expand()
  path = folders.folder_of(swept.out, run) / "spec.json"
  path.write_text(content)
  code, _, error = swept("--collect")
  assert code == 2
  assert f"{path} is damaged" in error


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_corrupt_or_missing_spec_is_not_used(swept, damage, named):
  run = next(run for run in expand() if run.values["seed"] == "1")
  path = folders.folder_of(swept.out, run) / "spec.json"
  if damage == "flipped":
    content = sealed.seal({"spec": to_json(run.spec)})
    text = json.dumps(content).replace('"latent_dim": 8', '"latent_dim": 9')
    path.write_text(text)
    said = f"{path} is damaged (the content does not match its digest)"
  else:
    path.unlink()
    said = f"{path} is missing, although the folder has other files"
  axes = AXES if named else {"width": WIDTHS, "seed": [0, 2]}
  code, _, error = swept("--collect", axes=axes)
  assert code == (2 if named else 0)
  assert said in error
  if not named:
    assert "the run is not in the tables" in error
    assert run.name not in {row["run"] for row in rows(swept.out)}


def test_axis_values_come_from_the_run_s_settings(swept):
  axes = {"model.latent_dim": [8, 4]}
  for run in expand(axes):
    finish(swept.out, run)
  said = {"latent_dim-4": {"blocks": [], "values": {"model.latent_dim": "5"}}}
  (swept.out / "sweep.json").write_text(json.dumps({"runs": said}))
  assert swept("--collect", axes={"model.latent_dim": [8]})[0] == 0
  found = {row["run"]: row["model.latent_dim"] for row in rows(swept.out)}
  assert found["latent_dim-4"] == "4"
  # Also on an axis that the run was not created with.
  assert found["width-16_seed-1"] == "8"


def test_runs_that_the_config_no_longer_names_are_marked(swept):
  fewer = {"width": WIDTHS, "seed": [0, 2]}
  code, printed, error = swept("--collect", axes=fewer)
  assert code == 0
  assert "4 runs: 4 done; 2 more with in_config=no" in printed
  assert "in_config=no: width-16_seed-1, width-8_seed-1" in error
  found = {row["run"]: row for row in rows(swept.out)}
  assert len(found) == 6
  marked = {name for name, row in found.items() if row["in_config"] == "no"}
  assert marked == {"width-8_seed-1", "width-16_seed-1"}
  row = found["width-16_seed-1"]
  assert (row["blocks"], row["width"], row["seed"]) == ("size", "16", "1")
  assert row["status"] == "done"
  assert len(rows(swept.out, "curves")) == 6
  # If the config names them again, they are regular runs.
  assert swept("--collect")[0] == 0
  assert {row["in_config"] for row in rows(swept.out)} == {"yes"}


def test_runs_stay_without_sweep_json(swept):
  (swept.out / "sweep.json").unlink()
  assert swept("--collect", axes={"width": WIDTHS, "seed": [0, 2]})[0] == 0
  found = {row["run"]: row for row in rows(swept.out)}
  assert len(found) == 6
  assert found["width-16_seed-1"]["in_config"] == "no"


def test_a_law_warns_about_rows_that_the_config_no_longer_names(swept, capsys):
  assert swept("--collect", axes={"width": WIDTHS, "seed": [0, 2]})[0] == 0
  command = ["fit", str(swept.out / "runs.csv"), "--x=parameters"]
  flags = ["--y=fd_classifier", "--status=status", "--floor=none"]
  words = ["bigscale", "scaling", *command, *flags, "--resamples=40", "--json"]
  assert main(words) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["points"] == 6
  said = [text for text in found["warnings"] if "in_config" in text]
  assert len(said) == 1
  assert said[0].startswith("2 rows come from runs")
  assert main([*words, "--where=in_config=yes"]) == 0
  found = json.loads(capsys.readouterr().out)
  assert (found["points"], found["filtered"]) == (4, 2)
  assert not [text for text in found["warnings"] if "in_config" in text]


def test_a_renamed_axis_finds_its_runs(swept):
  renamed = {"side": WIDTHS, "s": {"a": {"seed": 0}, "b": {"seed": 1}}}
  code, printed, error = swept("--collect", axes=renamed)
  assert code == 0
  assert "4 runs: 4 done; 2 more" in printed
  assert "side-8_s-a uses runs/width-8_seed-0, which has the same" in error
  row = next(r for r in rows(swept.out) if r["run"] == "width-16_seed-1")
  assert (row["side"], row["s"], row["in_config"]) == ("16", "b", "yes")


def test_an_edited_run_gets_a_new_folder(swept, monkeypatch):
  trained = []

  def train(spec, folder, command, prepared):
    trained.append(folder.name)
    (run,) = (r for r in edited if r.spec.seed == spec.seed)
    finish(swept.out, run._replace(folder=folder.name))
    return tiny_runs.trained_to(spec.total_steps)

  axes = {"width": {"8": WIDTHS["8"]}, "seed": [0, 1]}
  edited = expand(axes, optim__d_lr=2e-3)
  monkeypatch.setattr(runs.loop, "train", train)
  monkeypatch.setattr(runs.Runner, "_prepare", lambda self, spec: None)
  code, printed, error = swept("--anew", axes=axes, optim__d_lr=2e-3)
  assert code == 0
  assert "2 runs: 2 done; 6 more with in_config=no" in printed
  assert "width-8_seed-0 (optim.d_lr.first: 0.001 there, 0.002 here" in error
  assert [name.partition("@")[0] for name in trained] == [
    "width-8_seed-0",
    "width-8_seed-1",
  ]
  named = {r["run"]: r["in_config"] for r in rows(swept.out)}
  assert len(named) == 8
  assert {name for name, of in named.items() if of == "yes"} == set(trained)
  # Their folders are now known, and no run trains twice.
  assert swept(axes=axes, optim__d_lr=2e-3)[0] == 0
  assert len(trained) == 2
  # The folders of the old settings are known, too.
  assert swept("--collect")[1].startswith("6 runs: 6 done; 2 more")


def test_a_new_folder_with_a_longer_run_is_refused(swept):
  axes = {"seed": [0]}
  finish(swept.out, expand(axes)[0])
  assert swept("--collect", "--anew", axes=axes, optim__d_lr=2e-3)[0] == 0
  (made,) = (swept.out / "runs").glob("seed-0@*")
  (longer,) = expand(axes, optim__d_lr=2e-3, total_kimg=0.384)
  finish(swept.out, longer._replace(folder=made.name))
  code, _, error = swept("--collect", "--anew", axes=axes, optim__d_lr=2e-3)
  assert code == 2
  assert "total_kimg: 0.384 there, 0.192 here" in error


def test_jobs_of_edited_runs_get_the_new_folder(swept, tmp_path):
  env = tmp_path / "base.env"
  env.write_text("")
  axes = {"seed": [0]}
  finish(swept.out, expand(axes)[0])
  flags = (f"--jobs={env}", "--anew")
  code, printed, _ = swept(*flags, axes=axes, optim__d_lr=2e-3)
  assert code == 0
  path = pathlib.Path(printed.strip())
  assert path.stem.startswith("seed-0@")
  assert f"WORKDIR={swept.out}/runs/{path.stem}\n" in path.read_text()
  assert swept("--collect", axes=axes, optim__d_lr=2e-3)[0] == 0


def test_a_run_that_failed_before_it_started_has_no_properties(tmp_path):
  (run,) = expand({"seed": [4]})
  folder = folders.folder_of(tmp_path, run)
  folder.mkdir(parents=True)
  (folder / "failed.txt").write_text("no such data")
  (row,) = collect.write_tables(tmp_path, [run])
  assert (row["status"], row["seed"]) == ("failed", "4")
  assert "parameters" not in row


def test_collect_and_jobs_are_exclusive(swept):
  code, _, error = swept("--collect", "--jobs=x")
  assert code == 2
  assert "give one of them" in error


def test_the_base_spec_is_the_expected_one():
  assert expand()[0].spec == from_config(base())
