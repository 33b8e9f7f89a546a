"""Tests of `bigscale compile` and of `train --executable`."""

import json

import pytest

from bigscale.cli.main import main
from bigscale.train import executable
from bigscale.train.writers import JsonLines
from tests.e2e import tiny

CONFIG = f"--config={tiny.__file__}"


def refused(capsys, *arguments):
  assert main(["bigscale", *arguments]) == 2
  message = capsys.readouterr().err
  assert message.startswith("bigscale: ")
  assert "Traceback" not in message
  return message


def test_bad_flags_are_refused(capsys, tmp_path):
  assert "--out is missing" in refused(capsys, "compile", CONFIG)
  out = f"--out={tmp_path / 'a'}"
  both = ("--topology=v5e:2x2", "--virtual_devices=2")
  assert "omit it or" in refused(capsys, "compile", CONFIG, out, *both)
  unknown = refused(capsys, "compile", CONFIG, out, "--topology=v5e")
  assert "unknown topology" in unknown
  assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_step_leaves_no_folder(capsys, tmp_path):
  file = tmp_path / "file"
  file.write_text("hello")
  workdir = tmp_path / "run"
  message = refused(
    capsys, "train", CONFIG, f"--workdir={workdir}", f"--executable={file}"
  )
  assert "is not a saved step" in message
  assert not workdir.exists()


@pytest.mark.slow
def test_a_run_loads_its_step(tmp_path, capsys, monkeypatch):
  """The numbers are those of a run that compiles."""
  short = [CONFIG, "--config.total_kimg=0.032", "--config.log.steps=1"]
  out = tmp_path / "step"
  assert main(["bigscale", "compile", *short, f"--out={out}"]) == 0
  assert "MB, compiled in" in capsys.readouterr().out
  loaded = []
  load = executable._unpack
  monkeypatch.setattr(
    executable, "_unpack", lambda *args: loaded.append(1) or load(*args)
  )
  rows = {}
  for name, more in (("loads", [f"--executable={out}"]), ("compiles", [])):
    workdir = tmp_path / name
    command = ["bigscale", "train", *short, f"--workdir={workdir}", *more]
    assert main(command) == 0
    rows[name] = JsonLines(workdir / "metrics.jsonl").rows()
  assert loaded == [1]
  assert "is not used" not in capsys.readouterr().err
  for one, other in zip(rows["loads"], rows["compiles"], strict=True):
    same = [k for k in one if k.startswith(("d/", "g/", "ema/"))]
    assert json.dumps({k: one[k] for k in same}) == json.dumps(
      {k: other[k] for k in same}
    )
