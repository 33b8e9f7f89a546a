import json
import os

import numpy as np
import pytest
from built_set import NoiseSource, encoded, noise
from marked_set import write
from PIL import Image

from bigscale.data import ingest
from bigscale.data.build import build
from bigscale.data.manifest import DataError, Schema
from bigscale.data.recipe import BuildOptions
from bigscale.data.verify import verify


def shard(directory, index):
  return os.path.join(directory, f"train-{index:05d}-of-00005.array_record")


def edit_manifest(directory, change):
  path = os.path.join(directory, "manifest.json")
  with open(path) as file:
    tree = json.load(file)
  change(tree)
  with open(path, "w") as file:
    json.dump(tree, file)


def rehash(directory, index):
  """Updates the manifest to match a changed shard."""

  def change(tree):
    path = shard(directory, index)
    tree["shards"][index]["sha256"] = ingest.sha256(path)
    tree["shards"][index]["bytes"] = os.path.getsize(path)

  edit_manifest(directory, change)


def spoil(path, offset):
  with open(path, "r+b") as file:
    file.seek(offset)
    byte = file.read(1)
    file.seek(offset)
    file.write(bytes([byte[0] ^ 0xFF]))


def test_valid_set(directory):
  seen = []
  assert verify(directory, 1, lambda *done: seen.append(done)) == ()
  assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


def test_faults_of_many_shards_in_reading_order(directory, monkeypatch):
  os.remove(shard(directory, 3))
  path = shard(directory, 1)
  os.truncate(path, os.path.getsize(path) - 100)
  spoil(shard(directory, 2), 100)
  faults = verify(directory)
  assert "train-00001" in faults[0]
  assert "cut short" in faults[0]
  assert "train-00002" in faults[1]
  assert "sha256" in faults[1]
  assert "train-00003" in faults[-1]
  assert "cannot be read" in faults[-1]
  assert verify(directory, num_workers=2) == faults

  def last_first(function, shared, tasks, workers):
    return (function(shared, task) for task in reversed(tasks))

  monkeypatch.setattr("bigscale.data.workers.each", last_first)
  assert verify(directory) == faults


def test_every_spoiled_byte_is_found(directory):
  path = shard(directory, 1)
  for offset in (0, 30, 65536 + 40, 90, 150, os.path.getsize(path) - 30):
    spoil(path, offset)
    (first, *_) = verify(directory)
    assert "train-00001" in first, offset
    spoil(path, offset)
  assert verify(directory) == ()


def test_unreadable_records_with_a_correct_digest(directory):
  spoil(shard(directory, 0), 65536 + 40)
  spoil(shard(directory, 0), 120)
  rehash(directory, 0)
  faults = verify(directory)
  assert faults
  assert all("train-00000" in fault for fault in faults)
  assert not any("sha256" in fault for fault in faults)


def test_wrong_record_count(directory):
  edit_manifest(directory, lambda tree: tree["shards"][0].update(records=6))
  (fault,) = verify(directory)
  assert "contains 5 records" in fault
  assert "says 6" in fault


def test_label_out_of_range(directory):
  edit_manifest(directory, lambda tree: tree["class_names"].pop())
  faults = verify(directory)
  assert len(faults) == 7
  assert "record 2 " in faults[0]
  assert "labels (2,) are not all in [0, 2)" in faults[0]


def test_raw_record_of_wrong_size(directory):
  edit_manifest(
    directory, lambda tree: tree["schema"].update(image_shape=[5, 4, 1])
  )
  faults = verify(directory)
  assert len(faults) == 23
  assert "record 0 " in faults[0]


@pytest.mark.parametrize("spoiled", ["cut", "large", "text"])
def test_images_that_do_not_decode(tmp_path, spoiled):
  good = encoded(noise(8, 0), "PNG")
  bad = {
    "cut": encoded(noise(8, 1), "PNG")[:-60],
    "large": encoded(noise(9, 1), "PNG"),
    "text": b"an image",
  }
  path = str(tmp_path / "set")
  ingest.write(
    path,
    {"train": [(good, 0), (bad[spoiled], 1), (good, 0)]},
    name="x",
    schema=Schema(encoding="png", image_shape=(8, 8, 3)),
    class_names=("a", "b"),
    source="a test",
    licence="none",
  )
  (fault,) = verify(path)
  assert "record 1 " in fault


def test_the_faults_of_a_shard_are_limited(tmp_path):
  images = np.zeros((50, 4, 4, 1), np.uint8)
  path = str(tmp_path / "set")
  ingest.write(
    path,
    {"train": [(image, 1) for image in images]},
    name="x",
    schema=Schema(encoding="raw", image_shape=(4, 4, 1)),
    class_names=("a", "b"),
    source="a test",
    licence="none",
  )
  edit_manifest(path, lambda tree: tree["class_names"].pop())
  faults = verify(path)
  assert len(faults) == 21
  assert faults[-1].endswith("has more faults")


def test_a_fault_in_the_middle_of_a_built_shard(tmp_path):
  path = str(tmp_path / "set")
  settings = BuildOptions(name="set", encoding="raw", records_per_shard=600)
  build({"train": NoiseSource(600, side=16)}, path, settings)
  assert verify(path) == ()
  (name,) = (n for n in os.listdir(path) if n.endswith("array_record"))
  spoil(os.path.join(path, name), 300_000)
  first, *others = verify(path)
  assert "sha256" in first
  # A group of four, or the other records of its block, but not the shard.
  assert 1 <= len(others) <= 4
  assert all("cannot be used" in fault for fault in others)


def test_not_a_data_set(tmp_path, marked):
  with pytest.raises(DataError, match="is empty"):
    verify(str(tmp_path))
  write(str(tmp_path / "set"), marked, class_names=())
  assert verify(str(tmp_path / "set")) == ()


@pytest.mark.parametrize("workers", [1, 2])
def test_images_in_a_folder_are_verified(tmp_path, workers):
  random = np.random.default_rng(0)
  for number in range(300):
    path = tmp_path / str(number % 2) / f"{number}.png"
    path.parent.mkdir(exist_ok=True)
    pixels = random.integers(0, 256, (2, 2), np.uint8)
    Image.fromarray(pixels).save(path)
  seen = []
  assert verify(str(tmp_path), workers, lambda *done: seen.append(done)) == ()
  assert seen[-1] == (300, 300)
  for number in (3, 250):
    path = tmp_path / str(number % 2) / f"{number}.png"
    path.write_bytes(bytes(path.stat().st_size))
  faults = verify(str(tmp_path), workers)
  assert len(faults) == 2
  for number in (3, 250):
    (fault,) = [fault for fault in faults if f"/{number}.png (record" in fault]
    assert "cannot be used" in fault


def test_an_embedded_set_is_verified():
  assert verify("emoji") == ()


def test_missing_data_are_rejected(tmp_path):
  with pytest.raises(DataError, match="neither an embedded set"):
    verify(str(tmp_path / "nowhere"))
