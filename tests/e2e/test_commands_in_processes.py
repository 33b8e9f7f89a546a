"""The commands in several processes, from a config to a report."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests import fast_compile
from tests.e2e import tiny
from tests.parallel.processes import run_processes

COMMAND = "from bigscale.cli.main import entry_point; entry_point()"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> pathlib.Path:
  return tmp_path_factory.mktemp("cache")


def bigscale(cache, processes, devices, *arguments, **settings):
  return run_processes(
    ["-c", COMMAND, *arguments],
    processes,
    devices,
    timeout=400,
    environ={"BIGSCALE_CACHE": str(cache), "XLA_FLAGS": fast_compile.FLAGS},
    **settings,
  )


def train(cache, workdir, processes, devices, kimg, *options, **settings):
  return bigscale(
    cache,
    processes,
    devices,
    "train",
    f"--config={tiny.__file__}",
    f"--workdir={workdir}",
    "--config.mesh.data=-1",
    # R1 takes longest to compile.
    "--config.loss.r1_gamma=0.0",
    "--config.evaluate.classifier_steps=2",
    "--config.monitor.interval=4",
    "--config.monitor.anchor.images=1024",
    f"--config.total_kimg={kimg}",
    *options,
    **settings,
  )


@pytest.mark.slow
def test_two_processes_resume_with_another_batch_size(trained, cache, tmp_path):
  """After 8 steps (64 images), 4 steps of 16 images make 128."""
  workdir = tmp_path / "run"
  shutil.copytree(trained[0], workdir)
  other = ("--config.global_batch_size=16", "--config.optim.g_lr=2e-3")
  refused, _ = train(cache, workdir, 2, 2, 0.128, *other, check=False)
  assert refused.code == 2
  assert "--change" in refused.stderr
  train(cache, workdir, 2, 2, 0.128, *other, "--change")
  last = rows(workdir, "metrics.jsonl")[-1]
  assert (last["step"], last["kimg"]) == (12, pytest.approx(0.128))
  found = [
    event["setting"]
    for event in rows(workdir, "events.jsonl")
    if event["event"] == "setting_changed"
  ]
  assert sorted(found) == [
    *("global_batch_size", "optim.g_lr.first", "optim.g_lr.last"),
    "total_kimg",
  ]


def rows(workdir: pathlib.Path, name: str) -> list[dict]:
  lines = (workdir / name).read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
  """A run of 8 steps on two processes of one device, and their outputs."""
  workdir = tmp_path_factory.mktemp("runs") / "run"
  return workdir, train(cache, workdir, 2, 1, 0.064)


def test_two_processes_write_one_run(trained):
  workdir, (first, second) = trained
  events = rows(workdir, "events.jsonl")
  assert events[0]["event"] == "start"
  assert (events[0]["processes"], events[0]["devices"]) == (2, 2)
  assert events[-1]["event"] == "done"
  metrics = rows(workdir, "metrics.jsonl")
  steps = [row["step"] for row in metrics if "d/loss" in row]
  assert steps == [2, 4, 6, 8]
  assert metrics[-1]["eval/fd_classifier"] > 0
  (anchor,) = [event for event in events if event["event"] == "anchor"]
  assert (anchor["images"], anchor["network"]) == (1024, "classifier")
  assert "off" not in anchor
  compared = [row for row in metrics if "anchor/data/features" in row]
  assert [row["step"] for row in compared] == [4, 8]
  assert (workdir / "samples" / "00000008.png").stat().st_size > 0
  assert (workdir / "report.html").stat().st_size > 0
  assert not list(workdir.rglob("*tmp*"))
  # Only process 0 prints.
  assert "report:" in first.stdout
  assert "fd_classifier" not in second.stdout


@pytest.mark.slow
def test_one_process_resumes(trained, cache, tmp_path):
  shutil.copytree(trained[0], tmp_path / "run")
  train(cache, tmp_path / "run", 1, 1, 0.08)
  check_resumed(tmp_path / "run", processes=1)


def check_resumed(workdir: pathlib.Path, processes: int) -> None:
  events = rows(workdir, "events.jsonl")
  _, again = (event for event in events if event["event"] == "start")
  assert again["step"] == 8
  assert again["processes"] == processes
  steps = [r["step"] for r in rows(workdir, "metrics.jsonl") if "d/loss" in r]
  assert steps == [2, 4, 6, 8, 10]
  data = workdir / "checkpoints" / "10" / "data" / "metadata"
  # Each step reads two batches of 8: one for D, one for G.
  assert json.loads(data.read_text())["records_consumed"] == 10 * 16


@pytest.mark.slow
def test_two_processes_sample_and_evaluate(trained, cache, tmp_path):
  workdir, out = trained[0], tmp_path / "sheet.npz"
  arguments = (f"--workdir={workdir}", f"--out={out}", "--num=12")
  bigscale(cache, 2, 1, "sample", *arguments)
  with np.load(out) as arrays:
    assert arrays["images"].shape == (12, 8, 8, 1)
  arguments = (f"--workdir={workdir}", "--num=100")
  first, second = bigscale(cache, 2, 1, "evaluate", *arguments)
  # Gloo, which implements collectives between CPUs, prints to stdout, too.
  printed = first.stdout[first.stdout.index("{") :]
  assert json.loads(printed)["fd_classifier"] > 0
  assert "fd_classifier" not in second.stdout


def test_every_process_reports_an_error(cache, tmp_path):
  (tmp_path / "file").write_text("not a folder")
  workdir = f"--workdir={tmp_path / 'file' / 'run'}"
  config = (f"--config={tiny.__file__}", "--config.mesh.data=-1")
  done = bigscale(cache, 2, 1, "train", workdir, *config, check=False)
  for process in done:
    assert process.code == 2, process.stderr
    assert "cannot write to" in process.stderr


@pytest.mark.slow
def test_four_processes_resume_as_one(trained, cache, tmp_path):
  last = {}
  for processes in (1, 4):
    workdir = tmp_path / str(processes)
    shutil.copytree(trained[0], workdir)
    train(cache, workdir, processes, 1, 0.08)
    check_resumed(workdir, processes)
    metrics = rows(workdir, "metrics.jsonl")
    last[processes] = next(row for row in metrics if row["step"] == 10)
  names = [name for name in last[1] if name.startswith(("d/", "g/"))]
  for name in names:
    assert np.isclose(last[1][name], last[4][name], rtol=1e-3, atol=1e-5), name
