"""`bigscale data` from the command line."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bigscale.cli.main import main

ROOT = str(pathlib.Path(__file__).parent.parent.parent)
COMMAND = "from bigscale.cli.main import entry_point; entry_point()"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  """40 JPEGs of several sizes in two folders, and a file that is no image."""
  folder = tmp_path_factory.mktemp("photos")
  rng = np.random.default_rng(0)
  for name in ("cats", "dogs"):
    (folder / name).mkdir()
    for index in range(20):
      pixels = rng.integers(0, 256, (16 + index, 20, 3), np.uint8)
      Image.fromarray(pixels).save(folder / name / f"{index}.jpg")
  (folder / "dogs" / "bad.jpg").write_bytes(b"")
  return folder


def data(*arguments):
  """Runs a command and returns its exit code; flags are reset on each call."""
  return main(["bigscale", "data", *map(str, arguments)])


def test_build_verify_and_inspect(photos, tmp_path, capfd):
  out = tmp_path / "set"
  build = [
    *("build", f"--input={photos}", f"--out={out}", "--resolution=16"),
    *("--records_per_shard=10", "--heldout=0.2", "--dedup=exact"),
    *("--licence=MIT", "--name=pets"),
  ]
  code = data(*build, "--workers=1")
  assert code == 2
  error = capfd.readouterr().err
  # The held-out split is so small that it has no image of one class.
  note, error = error.split("\n", 1)
  assert note.startswith("note: 1 of 2 classes has no image in FolderSource(")
  assert error.startswith("bigscale: 1 records cannot be used")
  assert "Traceback" not in error
  enough = ("--max_bad_fraction=0.1", "--workers=2")
  # In its own process, because it starts workers.
  done = subprocess.run(
    [sys.executable, "-c", COMMAND, "data", *build, *enough],
    capture_output=True,
    text=True,
    env=os.environ | {"PYTHONPATH": ROOT},
    timeout=200,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert "1 images are unusable" in done.stdout
  assert done.stderr == f"{note}\n"
  rows = (out / "rejects.jsonl").read_text().splitlines()
  assert json.loads(rows[0])["reason"] == "it has 0 bytes"

  assert data("verify", out, "--workers=1") == 0
  assert "has no faults" in capfd.readouterr().out
  assert data("inspect", out, f"--sheet={tmp_path / 's.png'}") == 0
  words = capfd.readouterr().out
  assert "name: pets" in words
  assert "cats" in words
  with Image.open(tmp_path / "s.png") as sheet:
    assert sheet.height == 2 * 68 + 4
  assert data("inspect", out, "--json") == 0
  splits = json.loads(capfd.readouterr().out)["splits"]
  assert sum(sum(split["label_counts"]) for split in splits.values()) == 40

  shard = next(out.glob("train-*.array_record"))
  content = bytearray(shard.read_bytes())
  content[100] ^= 0xFF
  shard.write_bytes(content)
  assert data("verify", out, "--workers=1") == 2
  error = capfd.readouterr().err
  assert "has faults" in error
  assert shard.name in error


def test_build_reports_skipped_files_once(photos, tmp_path, capfd):
  (photos / "cats" / "notes.txt").write_text("x")
  try:
    build = ("build", f"--input={photos}", f"--out={tmp_path / 'set'}")
    enough = (
      "--heldout=0.2",
      "--resolution=8",
      "--max_bad_fraction=0.1",
      "--workers=1",
    )
    assert data(*build, *enough, "--json") == 0
  finally:
    (photos / "cats" / "notes.txt").unlink()
  printed = capfd.readouterr()
  assert printed.err.count("1 .txt (cats: 1)") == 1
  made = json.loads(printed.out)["made"]["splits"]
  assert "1 .txt (cats: 1)" in " ".join(made["train"]["notes"])


def test_json_report(tmp_path, capfd):
  out = tmp_path / "set"
  code = data(
    *("build", "--input=synthetic:30:8:3", f"--out={out}", "--workers=1"),
    *("--encoding=raw", "--json"),
  )
  assert code == 0
  report = json.loads(capfd.readouterr().out)
  assert report["rejects"] == 0
  assert report["shards_written"] == 2
  assert report["made"]["splits"]["train"]["input_records"] == 30


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "data '' is unknown; use: bigscale data build | inspect | verify"),
    (["mend"], "data 'mend' is unknown"),
    (["build"], "--input is missing"),
    (["build", "PHOTOS"], "give --input=PHOTOS"),
    (["build", "--input=emoji"], "--out is missing"),
    (["build", "--input=/nowhere", "--out=x"], "neither an embedded set"),
    (["build", "--input=emoji", "--out=x", "--quality=0"], "quality=0 must"),
    (["build", "--input=emoji", "--out=x", "--heldout=2"], "heldout=2.0 must"),
    (["inspect"], "data inspect needs a path"),
    (["inspect", "/nowhere"], "neither an embedded set"),
    (["verify", "/nowhere"], "neither an embedded set"),
    (["inspect", "emoji", "--sheet=/nowhere/x.png"], "cannot be written"),
    (["inspect", "emoji", "more"], "unexpected argument 'more'"),
  ],
)
def test_invalid_usage(arguments, message, capfd, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert data(*arguments) == 2
  error = capfd.readouterr().err
  assert message in error
  assert "Traceback" not in error
  assert os.listdir(tmp_path) == []
