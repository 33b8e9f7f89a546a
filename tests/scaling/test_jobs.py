"""Tests of cluster jobs for the runs of a sweep."""

import importlib.util
import json
import pathlib
import re
import subprocess

import pytest

from bigscale.cli.main import main
from bigscale.scaling import jobs, sweep
from bigscale.spec import from_config, to_json
from tests.scaling.test_sweep import say, settings

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def base(tmp_path):
  """An env file in a folder with a space in its name."""
  folder = tmp_path / "my files"
  folder.mkdir()
  path = folder / "base.env"
  example = (ROOT / "launch" / "example.env").read_text()
  path.write_text(f"{example}\nNUM_PROCESSES=3\n")
  return path


def load(path):
  found = importlib.util.spec_from_file_location("job", path)
  module = importlib.util.module_from_spec(found)
  found.loader.exec_module(module)
  return module.get_config()


def test_a_job_has_the_spec_of_its_run(base, tmp_path):
  planned = sweep.expand(settings(a={"seed": [0, 1], "optim.g_lr": [3e-4]}))
  envs = jobs.write_jobs(tmp_path / "out", planned, base)
  assert [env.stem for env in envs] == [run.name for run in planned]
  for env, run in zip(envs, planned, strict=True):
    assert from_config(load(env.with_suffix(".py"))) == run.spec


def test_launcher_accepts_the_env_file(base, tmp_path):
  planned = sweep.expand(settings(a={"seed": [7]}))
  (env,) = jobs.write_jobs(tmp_path / "out", planned, base)
  shown = subprocess.run(
    ["bash", ROOT / "launch" / "local.sh", f"--env={env}"],
    capture_output=True,
    text=True,
    check=True,
  ).stdout
  assert f"--config={tmp_path}/out/jobs/seed-7.py" in shown
  assert f"--workdir={tmp_path}/out/runs/seed-7" in shown
  # A setting of the shared env file.
  assert "--local_processes=3" in shown


@pytest.mark.parametrize(
  "name", ["seed-1", "width-32+16_seed-1", "9", "A" * 90, "x-" * 40]
)
def test_job_names_are_valid_for_clusters(name):
  found = jobs.job_name(name)
  # The pattern that launch/common.sh requires.
  assert re.fullmatch("[a-z]([a-z0-9-]{0,38}[a-z0-9])?", found)
  assert found != jobs.job_name(name.replace("-", "_") + "_")


SWEEP = """
def get_config():
  return {"base": BASE, "blocks": {"a": {"seed": [0, 1]}, "b": {"seed": [2]}}}
"""


def swept(folder):
  """Writes a sweep config and returns its path."""
  path = folder / "swept.py"
  path.write_text(f"BASE = {settings(a={})['base'].to_dict()!r}\n{SWEEP}")
  return path


def test_command_writes_the_remaining_runs(base, tmp_path, capsys):
  config, out = swept(tmp_path), tmp_path / "out"
  folder = out / "runs" / "seed-0"
  folder.mkdir(parents=True)
  (run,) = sweep.expand(settings(a={"seed": [0]}))
  (folder / "spec.json").write_text(json.dumps({"spec": to_json(run.spec)}))
  say(folder, "done", 24)
  command = ["bigscale", "scaling", "sweep", f"--config={config}"]
  assert main([*command, f"--out={out}", f"--jobs={base}"]) == 0
  left = [f"{out}/jobs/seed-{seed}.env" for seed in (1, 2)]
  assert capsys.readouterr().out.splitlines() == left
  assert main([*command, f"--out={out}", f"--jobs={tmp_path}/no.env"]) == 2
  assert "copy launch/example.env" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("only", "left"),
  [
    ("b", ["seed-2"]),
    ("seed-1", ["seed-1"]),
    ("b,seed-0", ["seed-0", "seed-2"]),
    ("", ["seed-0", "seed-1", "seed-2"]),
  ],
)
def test_runs_are_chosen_by_their_names_or_blocks(
  only, left, base, tmp_path, capsys
):
  config = swept(tmp_path)
  command = ["bigscale", "scaling", "sweep", f"--config={config}"]
  flags = [f"--out={tmp_path / 'out'}", f"--jobs={base}", f"--only={only}"]
  assert main([*command, *flags]) == 0
  printed = capsys.readouterr().out.splitlines()
  assert [pathlib.Path(line).stem for line in printed] == left


def test_unknown_runs_and_blocks_are_refused(tmp_path, capsys):
  command = ["bigscale", "scaling", "sweep", f"--config={swept(tmp_path)}"]
  assert main([*command, f"--out={tmp_path}", "--only=c"]) == 2
  assert "neither a run nor a block; blocks: a, b; runs: seed-0" in (
    capsys.readouterr().err
  )
