"""The program: results for valid input and errors for invalid input."""

import json
import os
import pathlib
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bigscale.cli import main as program
from bigscale.cli.main import main
from tests.e2e import tiny

CONFIG = f"--config={tiny.__file__}"
SHORT = (
  "--config.total_kimg=0.064",
  "--config.log.samples_kimg=0.0",
  # R1 takes longest to compile.
  "--config.loss.r1_gamma=0.0",
)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("cli")
  os.environ["BIGSCALE_CACHE"] = str(folder / "cache")
  assert bigscale("train", CONFIG, f"--workdir={folder / 'run'}", *SHORT) == 0
  yield folder / "run"
  del os.environ["BIGSCALE_CACHE"]


def bigscale(*args: str) -> int:
  """Runs the program in this process; flags are reset on each call."""
  return main(["bigscale", *args])


def refused(capsys, *args: str) -> str:
  """Runs a command that must fail with one message; returns the message."""
  assert bigscale(*args) == 2
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err + captured.out
  assert captured.err.startswith("bigscale: ")
  return captured.err


def test_train_prints_the_paths_of_its_results(run_dir, capsys):
  assert bigscale("train", CONFIG, f"--workdir={run_dir}", *SHORT) == 0
  out = capsys.readouterr().out
  assert "samples:" in out
  assert (run_dir / "report.html").read_text().startswith("<!")


def test_sample_png_and_npz(run_dir, tmp_path):
  png, npz = tmp_path / "a.png", tmp_path / "a.npz"
  common = [f"--workdir={run_dir}", "--num=6", "--labels=3,7"]
  assert bigscale("sample", *common, f"--out={png}") == 0
  with Image.open(png) as image:
    assert image.size[0] > 3 * 8
  assert bigscale("sample", *common, f"--out={npz}") == 0
  with np.load(npz) as arrays:
    assert arrays["images"].shape == (6, 8, 8, 1)
    assert arrays["images"].dtype == np.uint8
    assert arrays["labels"].tolist() == [3, 7, 3, 7, 3, 7]


def test_seed_and_truncation_change_samples(run_dir, tmp_path):
  def drawn(*options: str) -> np.ndarray:
    out = tmp_path / "b.npz"
    where = [f"--workdir={run_dir}", "--num=8", f"--out={out}"]
    assert bigscale("sample", *where, *options) == 0
    with np.load(out) as arrays:
      return arrays["images"]

  base = drawn()
  np.testing.assert_array_equal(base, drawn("--seed=0"))
  assert (base != drawn("--seed=1")).any()
  assert (base != drawn("--truncation=0.1")).any()


def test_evaluate_prints_json_with_the_floor(run_dir, capsys):
  capsys.readouterr()
  assert bigscale("evaluate", f"--workdir={run_dir}") == 0
  scores = json.loads(capsys.readouterr().out)
  assert scores["fd_classifier"] > scores["reference"]["fd_classifier_floor"]
  assert scores["step"] == 8


def test_evaluate_reproduces_the_score_of_training(run_dir, capsys):
  capsys.readouterr()
  assert bigscale("evaluate", f"--workdir={run_dir}") == 0
  scores = json.loads(capsys.readouterr().out)
  rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
  logged = [r for r in rows if "eval/fd_classifier" in r][-1]
  assert scores["fd_classifier"] == pytest.approx(
    logged["eval/fd_classifier"], rel=1e-6
  )


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "report"])
def test_help_has_an_example(command, capsys):
  assert bigscale(command, "--help") == 0
  out = capsys.readouterr().out
  assert f"bigscale {command} --" in out
  assert "--workdir" in out


def test_the_overview_lists_commands(capsys):
  assert main(["bigscale", "--help"]) == 0
  assert "evaluate" in capsys.readouterr().out
  assert main(["bigscale", "frobnicate"]) == 2


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("--config.mesh.data=-1 --config.global_batch_size=12", ("12", "8 or 16")),
    ("--config.loss.adversarial=hing", ("hing", "'hinge'")),
    ("--config.model.resolution=12", ("12", "8 px")),
    ("--config.model.num_classes=11", ("11", "10")),
    ("--config.data.source=nowhere", ("nowhere",)),
    ("--config.optim.g_lr=-1.0", ("g_lr", "-1.0", "positive")),
  ],
)
def test_impossible_values(override, words, tmp_path, capsys):
  workdir = tmp_path / "run"
  message = refused(
    capsys, "train", CONFIG, f"--workdir={workdir}", *override.split()
  )
  for word in words:
    assert word in message
  assert not workdir.exists(), "a refused run leaves nothing behind"


def test_a_config_with_a_failing_import(tmp_path, capsys):
  path = tmp_path / "config.py"
  path.write_text("from elsewhere import base\n")
  where = f"--workdir={tmp_path / 'run'}"
  message = refused(capsys, "train", f"--config={path}", where)
  assert "No module named 'elsewhere'" in message
  assert "PYTHONPATH" in message


def config_file(tmp_path: pathlib.Path, change: str) -> str:
  path = tmp_path / "config.py"
  path.write_text(
    "from tests.e2e import tiny\n"
    "def get_config():\n"
    "  config = tiny.get_config().unlock()\n"
    f"  {change}\n"
    "  return config\n"
  )
  return f"--config={path}"


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ("config.optim.g_lrr = 1.0", ("optim.g_lrr", "did you mean 'g_lr'")),
    (
      "config.model = dict(config.model.to_dict(), widths=3)",
      ("model.widths=3", "list"),
    ),
    ("config.model.widths = 3", ("'widths'", "tuple")),
    ("raise OSError('no such disk')", ("no such disk",)),
    (
      "config.data = dict(source='emoji', prefetch='x')",
      ("data.prefetch='x'", "whole number"),
    ),
    ("del config.loss", ("config.loss is missing",)),
  ],
)
def test_bad_config_files(change, words, tmp_path, capsys):
  config = config_file(tmp_path, change)
  message = refused(capsys, "train", config, f"--workdir={tmp_path / 'run'}")
  for word in words:
    assert word in message


def test_workdir_of_another_run(run_dir, capsys):
  before = sorted(run_dir.rglob("*"))
  message = refused(
    capsys, "train", CONFIG, f"--workdir={run_dir}", "--config.seed=5"
  )
  assert "seed: 0 there, 5 here" in message
  assert sorted(run_dir.rglob("*")) == before


def test_an_address_without_checkpoints_is_not_a_workdir(capsys):
  message = refused(capsys, "train", CONFIG, "--workdir=hdfs://host/run")
  assert "checkpoints cannot be there; use a gs:// or s3://" in message


def test_unwritable_workdir(tmp_path, capsys):
  blocked = tmp_path / "file"
  blocked.write_text("in the way")
  message = refused(capsys, "train", CONFIG, f"--workdir={blocked / 'run'}")
  assert "cannot write to" in message
  if os.geteuid():  # root may write anywhere
    blocked.chmod(stat.S_IREAD)


def test_missing_and_corrupt_shard(tmp_path, capsys):
  import shutil

  import bigscale.data

  embedded = pathlib.Path(bigscale.data.__file__).parent / "embedded"
  source = tmp_path / "shards"
  shutil.copytree(embedded / "fashion_mnist", source)
  (shard,) = source.glob("train*")
  where = [CONFIG, f"--workdir={tmp_path / 'run'}"]
  data = shard.read_bytes()
  shard.write_bytes(data[: len(data) // 2])
  option = f"--config.data.source={source}"
  assert shard.name in refused(capsys, "train", *where, option)
  shard.unlink()
  assert shard.name in refused(capsys, "train", *where, option)


def test_sampling_from_an_empty_folder(tmp_path, capsys):
  empty = tmp_path / "empty"
  empty.mkdir()
  out = f"--out={tmp_path / 'a.png'}"
  message = refused(capsys, "sample", f"--workdir={empty}", out)
  assert "contains no run" in message
  assert not list(empty.iterdir())
  assert "no run" in refused(capsys, "report", f"--workdir={empty}")


def test_labels_out_of_range(run_dir, tmp_path, capsys):
  common = [f"--workdir={run_dir}", f"--out={tmp_path / 'a.png'}"]
  message = refused(capsys, "sample", *common, "--labels=10")
  assert "label 10" in message
  assert "0 to 9" in message
  assert "whole numbers" in refused(capsys, "sample", *common, "--labels=x")


def test_a_missing_checkpoint(run_dir, tmp_path, capsys):
  out = f"--out={tmp_path / 'a.png'}"
  message = refused(capsys, "sample", f"--workdir={run_dir}", out, "--step=3")
  assert "no checkpoint of step 3" in message


@pytest.mark.parametrize("name", ["config", "workdir"])
def test_missing_flags(name, tmp_path, capsys):
  options = {"config": CONFIG, "workdir": f"--workdir={tmp_path / 'r'}"}
  del options[name]
  assert f"--{name} is missing" in refused(capsys, "train", *options.values())


def test_a_diverging_loss_stops_the_run(tmp_path, capsys):
  """The exit code is 3, and the diverged state is not saved."""
  workdir = tmp_path / "run"
  wild = ["--config.optim.g_lr=1e30", "--config.optim.d_lr=1e30"]
  assert bigscale("train", CONFIG, f"--workdir={workdir}", *wild) == 3
  # The first step diverges, so only the initial state is healthy.
  assert "g/loss is nan; the newest healthy state is healthy/0" in (
    capsys.readouterr().err
  )
  assert not [p for p in (workdir / "checkpoints").iterdir() if p.is_dir()]


def test_a_closed_pipe_is_not_an_error(tmp_path):
  table = tmp_path / "runs.csv"
  rows = (f"r{n},done,{n},,9\n" for n in range(5000))
  table.write_text("run,status,images,collapsed_step,steps\n" + "".join(rows))
  words = ["scaling", "survival", str(table), "--x=images", "--json"]
  code = "import sys; from bigscale.cli.main import main; sys.exit(main())"
  program = subprocess.Popen(
    [sys.executable, "-c", code, *words],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  with program.stdout, program.stderr:
    assert program.stdout.readline() == "{\n"
    program.stdout.close()
    said = program.stderr.read()
  assert (program.wait(), said) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize(
  ("given", "meant"),
  [
    ("--workdir=~/runs/a", "--workdir=/home/me/runs/a"),
    ("--workdir=~", "--workdir=/home/me"),
    ("--input=~/a.tar,~/b.tar", "--input=/home/me/a.tar,/home/me/b.tar"),
    ("--config.data.source=~/set", "--config.data.source=/home/me/set"),
    ("--workdir=a~/b", "--workdir=a~/b"),
    ("~/as_the_shell_left_it", "~/as_the_shell_left_it"),
  ],
)
def test_a_tilde_in_a_flag_is_expanded(given, meant, monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  assert program._expand_home(given) == meant
