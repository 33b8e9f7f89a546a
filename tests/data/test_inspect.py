import json

import numpy as np
import pytest
from built_set import NoiseSource, encoded, noise, save
from PIL import Image

from bigscale.data import inspect
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.recipe import BuildOptions
from bigscale.data.shards import ShardSource


@pytest.fixture
def built(tmp_path):
  path = str(tmp_path / "set")
  options = BuildOptions(
    name="set",
    encoding="raw",
    records_per_shard=10,
    licence="MIT",
    source="a test",
    max_bad_fraction=0.5,
    dedup="exact",
  )
  inputs = {
    "train": NoiseSource(31, bad=(0,), seed=1),
    "heldout": NoiseSource(6),
  }
  build(inputs, path, options)
  return path


def test_shards(built, monkeypatch):
  # The manifest has the histogram, so labels need not be read.
  monkeypatch.delattr(ShardSource, "labels")
  found = inspect.facts(built)
  train, heldout = found["splits"]["train"], found["splits"]["heldout"]
  assert (train["records"], train["files"]) == (30, 3)
  assert train["image_shapes"] == {"8 x 8 x 3": 30}
  assert train["label_counts"] == [10, 10, 10]
  assert train["class_names"] == ["a", "b", "c"]
  assert (train["rejects"], train["duplicates"]) == (1, 0)
  assert heldout["label_counts"] == [2, 2, 2]
  assert found["bytes"] > train["bytes"] + heldout["bytes"]
  assert found["manifest"]["licence"] == "MIT"
  assert found["manifest"]["made"]["crop"] == "center"
  assert json.loads(json.dumps(found)) == found
  words = inspect.inspect(built)
  for part in (
    "8 x 8 x 3 uint8, raw",
    "licence: MIT",
    "crop=center",
    "train: 30 images in 3 files",
    f"{round(train['bytes'] / 30):,} bytes per image",
    "rejects left out: 1",
    "3 classes, 10 to 10 images each",
    train["identity"],
  ):
    assert part in words


def test_embedded_set_counts_its_labels():
  found = inspect.facts("emoji")
  counts = found["splits"]["heldout"]["label_counts"]
  assert counts == [17, 38, 16, 13, 22, 8, 26, 22, 26]
  assert found["bytes"] is None
  assert "Smileys & Emotion" in inspect.text(found)


def test_folder_with_bad_and_unusual_images(tmp_path):
  files = {f"cat/{i}.png": encoded(noise(8, i), "PNG") for i in range(4)}
  files |= {f"dog/{i}.png": encoded(noise(9, i, 1), "PNG") for i in range(2)}
  files["dog/bad.png"] = b"bad"
  path = save(tmp_path / "pets", {f"train/{n}": d for n, d in files.items()})
  save(tmp_path / "pets", {"test/cat/1.png": files["cat/1.png"]})
  found = inspect.facts(path)
  train = found["splits"]["train"]
  assert train["image_shapes"] == {"8 x 8 x 3": 4, "9 x 9 x 1": 2}
  assert train["unreadable"] == 1
  assert train["label_counts"] == [4, 3]
  total = sum(map(len, files.values())) + len(files["cat/1.png"])
  assert found["bytes"] == total
  words = inspect.text(found)
  assert f"about {total / 8:,.0f} bytes per image" in words
  assert "unreadable: 1 of 7 decoded" in words
  assert "unreadable headers: 1 of 7" in words
  assert "8 x 8 x 3: 4 of 7" in words
  # A file of the uncommon shape is named.
  assert "9 x 9 x 1: 2 of 7 headers, such as" in words
  assert "dog/0.png" in words


def test_long_class_lists_are_truncated():
  found = inspect.facts("synthetic:5000:8:300")
  words = inspect.text(found)
  assert "300 classes" in words
  assert "and 280 more" in words
  unlabeled = inspect.text(inspect.facts("synthetic:50:8:0"))
  assert "no labels" in unlabeled


def test_a_missing_set_is_rejected(tmp_path):
  with pytest.raises(DataError, match="neither an embedded set"):
    inspect.facts(str(tmp_path / "nothing"))


def cell(sheet, row, column):
  """Returns a cell [H, W, 3] of a sheet, counting columns from the right."""
  top, left = row * 68 + 4, sheet.shape[1] - 68 * column
  return sheet[top : top + 64, left : left + 64]


def sheet_of(source, tmp_path, num):
  path = tmp_path / "sheet.png"
  inspect.contact_sheet(source, path, num)
  with Image.open(path) as file:
    return np.asarray(file)


def test_sheet_has_one_row_per_class(built, tmp_path):
  source = open_source(built, "train")
  sheet = sheet_of(source, tmp_path, 12)
  assert sheet.shape[0] == 3 * 68 + 4
  labels = {
    source.read(i).image.tobytes(): source.read(i).labels[0] for i in range(30)
  }
  for row in range(3):
    for column in range(1, 5):
      large = cell(sheet, row, column)
      assert labels[large[::8, ::8].tobytes()] == row


def test_sheet_of_more_classes_than_rows(tmp_path):
  sheet = sheet_of(open_source("synthetic:5000:8:300", "train"), tmp_path, 16)
  assert sheet.shape[0] == 4 * 68 + 4


def test_sheet_of_an_unlabeled_source(tmp_path):
  source = NoiseSource(10, side=32, classes=0)
  sheet = sheet_of(source, tmp_path, 10)
  assert sheet.shape == (3 * 68 + 4, 4 * 68 + 4, 3)
  first = source.read(0).image.repeat(2, axis=0).repeat(2, axis=1)
  np.testing.assert_array_equal(sheet[4:68, 4:68], first)
  assert (sheet[2 * 68 + 4 :, 2 * 68 + 4 :] == 255).all()


def test_sheet_keeps_aspect_ratios_and_crosses_out_bad_records(tmp_path):
  wide = np.zeros((30, 400, 1), np.uint8)
  files = {"0.png": encoded(wide, "PNG"), "1.png": b"bad"}
  folder = save(tmp_path / "folder", files)
  sheet = sheet_of(FolderSource(folder, "train", 0.0), tmp_path, 2)
  assert sheet.shape == (264, 524, 3)
  black = (sheet[4:260, 4:260] == 0).all(-1)
  assert black.sum() == 256 * 19
  red = (sheet[4:260, 264:520] == [255, 0, 0]).all(-1)
  assert red[128, 128]
  assert 500 < red.sum() < 3000


def test_invalid_sheet_arguments_are_rejected(built, tmp_path):
  source = open_source(built, "train")
  with pytest.raises(DataError, match=r"no/sheet\.png cannot be written"):
    inspect.contact_sheet(source, tmp_path / "no" / "sheet.png")
  with pytest.raises(DataError, match="num=0 must be 1 or more"):
    inspect.contact_sheet(source, tmp_path / "sheet.png", 0)
