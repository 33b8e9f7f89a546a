"""Every possible file name works and is printed on one line."""

import json
import logging
import os
import unicodedata

import numpy as np
import pytest
from absl import logging as absl_logging

from bigscale.cli.main import main
from bigscale.data.images import encode
from bigscale.data.inputs import BothSplits
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.reading import Reader
from bigscale.data.shown import shown
from bigscale.data.sources import BadRecordError
from bigscale.report import write_report
from bigscale.train.folder import write_whole
from bigscale.train.writers import JsonLines

NAMES = (
  b"plain",
  b"caf\xe9",
  b"\xff\xfe",
  b"line\nbreak",
  b"cr\rlf",
  b"esc\x1b[31mred\x07",
  b"tab\tdel\x7f\xc2\x9b",
  "\u202ertl\u05d0".encode(),
  "\u2028sep\x85".encode(),
  b"\"q'<b>&amp;",
  b"--dash",
  b"a,b;c%s{x}",
  b" $(lead) `x`",
  b"*?[x]",
  b"x" * 240,
)


def is_clean(text):
  """Returns whether a text is Unicode without control characters."""
  return all(
    letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs")
    for letter in text
  )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  folder = os.fsencode(tmp_path_factory.mktemp("odd") / "set")
  rng = np.random.default_rng(0)
  for number, name in enumerate(NAMES):
    os.makedirs(os.path.join(folder, name))
    for other, file in enumerate(NAMES):
      pixels = rng.integers(0, 256, (8, 8, 1), np.uint8)
      # One file of every class is not an image.
      data = b"<html>" if other == number else encode(pixels, "png")
      with open(os.path.join(folder, name, file + b".png"), "wb") as out:
        out.write(data)
  return os.fsdecode(folder)


def run(capsys, *words, code=0):
  assert main(["bigscale", *words]) == code
  out, err = capsys.readouterr()
  assert is_clean(err), err
  return out, err


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_on_one_line(name):
  text = shown(os.fsdecode(name))
  assert is_clean(text)
  assert "\n" not in text
  if text.isascii() and os.fsdecode(name).isprintable():
    assert text == os.fsdecode(name)


def test_classes_with_such_names_can_be_inspected_built_and_verified(
  root, tmp_path, capsys
):
  out, _ = run(capsys, "data", "inspect", root, f"--sheet={tmp_path / 's.png'}")
  assert is_clean(out)
  assert r"caf\udce9" in out
  assert (tmp_path / "s.png").stat().st_size > 1000
  found = json.loads(run(capsys, "data", "inspect", root, "--json")[0])
  names = found["splits"]["train"]["class_names"]
  assert sorted(map(os.fsencode, names)) == sorted(NAMES)
  built = os.path.join(str(tmp_path), os.fsdecode(b"built \xe9\n\x1b"))
  options = ("--resolution=8", "--workers=1", "--max_bad_fraction=0.2")
  run(capsys, "data", "build", f"--input={root}", f"--out={built}", *options)
  run(capsys, "data", "verify", built, "--workers=1")
  assert is_clean(run(capsys, "data", "inspect", built)[0])
  again = open_source(built, "train").class_names
  assert again == open_source(root, "train").class_names


def test_verify_prints_a_line_for_each_unreadable_record(root, capsys):
  _, err = run(capsys, "data", "verify", root, "--workers=1", code=2)
  title, *faults = err.splitlines()
  assert title.startswith("bigscale: ")
  assert faults
  assert all("cannot be used" in fault for fault in faults)


def test_an_error_about_a_record_is_one_line(root, tmp_path, capsys):
  source = open_source(root, "train")
  errors = []
  for index in range(len(source)):
    try:
      source.read(index)
    except BadRecordError as error:
      errors.append(error)
  assert len(errors) > 10
  for error in errors:
    assert os.path.isfile(error.where)
    assert is_clean(str(error))
    assert "\n" not in str(error)
  words = (f"--input={root}", f"--out={tmp_path / 'out'}", "--resolution=8")
  words += ("--max_bad_fraction=0.01", "--workers=1")
  said = run(capsys, "data", "build", *words, code=2)[1]
  assert len([line for line in said.splitlines() if "note:" not in line]) == 1
  assert is_clean(str(DataError("a\nb\x1b[0m\udce9")))


def test_the_log_escapes_names(root, tmp_path, capsys, caplog):
  run(capsys, "data", "inspect", root)
  handler = absl_logging.get_absl_handler()
  images = BothSplits(root)
  odd = [i for i in range(len(images)) if not is_clean(images.where(i))]
  with caplog.at_level(logging.WARNING):
    Reader(images, (8, 8, 1)).read(odd)
  assert len(caplog.records) >= 5
  for record in caplog.records:
    assert handler.filter(record)
    assert is_clean(record.getMessage())
    assert "\n" not in record.getMessage()


def test_reports_and_tables_may_contain_any_name(tmp_path):
  name = os.fsdecode(b"\x1b[1m<b>\xe9\n\xe2\x80\xae")
  rows = JsonLines(tmp_path / "metrics.jsonl")
  rows.write({"step": 1, "d/loss": 1.0, f"class_share/{name}": 0.5})
  events = JsonLines(tmp_path / "events.jsonl")
  events.write({"event": "bad_record", "step": 1, "where": name, "time": 1})
  command = ["train", f"--workdir={name}"]
  (tmp_path / "spec.json").write_text(
    json.dumps(
      {"spec": {"total_kimg": 1.0}, "versions": {}, "command": command}
    )
  )
  write_report(tmp_path)
  page = (tmp_path / "report.html").read_text(encoding="utf-8")
  assert is_clean(page)
  assert "<b>\\udce9" not in page
  assert "&lt;b&gt;" in page
  write_whole(tmp_path / "runs.csv", f"run,score\n{name},1\n")
  assert b"\\udce9" in (tmp_path / "runs.csv").read_bytes()
