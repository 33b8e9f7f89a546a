import json
import os
import pickle
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import marked_set
import numpy as np
import pytest
from marked_set import RECORDS, read, write

from bigscale.data import ingest, manifest
from bigscale.data.manifest import DataError, Schema
from bigscale.data.openers import open_source
from bigscale.data.shards import ShardSource
from bigscale.data.sources import BadRecordError
from bigscale.spec import SpecError


def shard(directory, index):
  return os.path.join(directory, f"train-{index:05d}-of-00005.array_record")


def edit_manifest(directory, change):
  path = os.path.join(directory, "manifest.json")
  with open(path) as file:
    tree = json.load(file)
  change(tree)
  with open(path, "w") as file:
    json.dump(tree, file)


def spoil(path, offset):
  with open(path, "r+b") as file:
    file.seek(offset)
    byte = file.read(1)
    file.seek(offset)
    file.write(bytes([byte[0] ^ 0xFF]))


def test_shards_are_read_in_any_order(directory, marked):
  source = open_source(directory, "train")
  assert len(source) == RECORDS
  indices = np.random.default_rng(0).permutation(RECORDS)
  images, labels = read(source, indices)
  np.testing.assert_array_equal(images, marked[indices])
  np.testing.assert_array_equal(labels, indices % 3)
  np.testing.assert_array_equal(source.labels(), np.arange(RECORDS) % 3)


@pytest.mark.parametrize("index", [-1, RECORDS])
def test_index_out_of_range(directory, index):
  with pytest.raises(IndexError, match=str(index)):
    open_source(directory, "train").read(index)


def test_shards_open_when_read(directory, marked):
  source = open_source(directory, "train")
  os.remove(shard(directory, 4))
  np.testing.assert_array_equal(read(source, np.arange(20))[0], marked[:20])
  with pytest.raises(DataError, match="train-00004-of-00005"):
    source.read(22)


def test_sources_with_open_readers_can_be_pickled(directory, marked):
  source = open_source(directory, "train")
  source.read(0)
  copy = pickle.loads(pickle.dumps(source))
  assert repr(copy) == repr(source)
  np.testing.assert_array_equal(copy.read(7).image, marked[7])


def test_sources_are_thread_safe(directory, marked):
  source = open_source(directory, "train")
  orders = [np.random.default_rng(i).permutation(RECORDS) for i in range(64)]
  with ThreadPoolExecutor(16) as pool:
    for order, got in zip(
      orders,
      pool.map(lambda order: read(source, order)[0], orders),
      strict=True,
    ):
      np.testing.assert_array_equal(got, marked[order])


def test_bad_record_errors_can_be_pickled(directory):
  error = BadRecordError("set/train", 3, "it is empty", "3 of file")
  copy = pickle.loads(pickle.dumps(error))
  assert (str(copy), copy.index, copy.where) == (str(error), 3, "3 of file")


def test_identity_depends_on_content_not_path(directory, marked, tmp_path):
  moved = str(tmp_path / "moved")
  shutil.copytree(directory, moved)
  source = open_source(directory, "train")
  assert open_source(moved, "train").identity == source.identity
  assert directory not in repr(source)
  marked[11, 0, 0, 0] += 1
  write(str(tmp_path / "other"), marked)
  other = open_source(str(tmp_path / "other"), "train")
  assert other.identity != source.identity


def test_missing_shard(directory):
  os.remove(shard(directory, 3))
  (missing,) = open_source(directory, "train").check()
  assert missing.records == 5
  assert "train-00003-of-00005" in missing.message
  assert "copy it again" in missing.message


def test_truncated_shard(directory):
  path = shard(directory, 2)
  os.truncate(path, os.path.getsize(path) - 100)
  source = open_source(directory, "train")
  (missing,) = source.check()
  assert "cut short" in missing.message
  with pytest.raises(BadRecordError, match=r"train-00002.* cut short"):
    source.read(11)


def test_every_spoiled_byte_is_an_error_or_harmless(directory, marked):
  path = shard(directory, 1)
  size = os.path.getsize(path)
  errors = 0
  for offset in [0, 30, 65536 + 40, *range(70, 200, 10), size - 30]:
    spoil(path, offset)
    try:
      got, _ = read(open_source(directory, "train"), range(5, 10))
      np.testing.assert_array_equal(got, marked[5:10])
    except DataError as error:
      errors += "train-00001" in str(error)
    spoil(path, offset)
  assert errors > 5


def test_not_an_array_record(directory):
  path = shard(directory, 0)
  size = os.path.getsize(path)
  with open(path, "wb") as file:
    file.write(b"\x5a" * size)
  with pytest.raises(DataError, match=r"train-00000.*build the set again"):
    open_source(directory, "train").read(0)


def test_wrong_record_count(directory):
  edit_manifest(directory, lambda tree: tree["shards"][0].update(records=6))
  with pytest.raises(DataError, match=r"contains 5 records.* says 6"):
    open_source(directory, "train").read(0)


def test_label_out_of_range(directory):
  edit_manifest(directory, lambda tree: tree["class_names"].pop())
  source = open_source(directory, "train")
  read(source, [0, 1])
  with pytest.raises(
    DataError, match=r"record 2 of .*labels \(2,\) are not all in \[0, 2\)"
  ):
    source.read(2)


def test_png_that_does_not_decode(tmp_path, marked):
  path = str(tmp_path / "png")
  write(path, marked, encoding="png")
  source = open_source(path, "train")
  np.testing.assert_array_equal(read(source, np.arange(RECORDS))[0], marked)
  edit_manifest(path, lambda tree: tree["schema"].update(image_shape=[4, 4, 3]))
  with pytest.raises(DataError, match=r"record 0 .*image of .*not"):
    open_source(path, "train").read(0)


def test_raw_record_of_wrong_size(directory):
  edit_manifest(
    directory, lambda tree: tree["schema"].update(image_shape=[5, 4, 1])
  )
  with pytest.raises(
    DataError, match=r"record 0 .*16 bytes of pixels, which does not fit"
  ):
    open_source(directory, "train").read(0)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda tree: tree.pop("format_version"), "format_version=None"),
    (lambda tree: tree.update(format_version=2), "format_version=2.*reads 1"),
    (lambda tree: tree.pop("shards"), "'shards' is missing"),
    (lambda tree: tree["schema"].pop("encoding"), "'encoding' is missing"),
    (lambda tree: tree["schema"].update(encoding="bmp"), "'bmp' is not one"),
    (lambda tree: tree["schema"].update(image_shape=[4, 4]), "image_shape"),
    (lambda tree: tree["shards"][0].update(records=0), "0 must be a whole"),
    (lambda tree: tree["shards"][0].update(records="5"), "'5' must be a whole"),
    (lambda tree: tree["shards"][0].update(split="test"), "split='test'"),
    (lambda tree: tree["shards"][0].update(file="../x"), "plain file name"),
    (lambda tree: tree["shards"].append(tree["shards"][0]), "twice"),
    (lambda tree: tree.update(shards=3), "not describe"),
  ],
)
def test_bad_manifest(directory, change, message):
  edit_manifest(directory, change)
  with pytest.raises(DataError, match=message) as error:
    open_source(directory, "train")
  assert manifest.FILE_NAME in str(error.value)
  assert "again" in str(error.value)


def test_manifest_not_json(directory):
  with open(os.path.join(directory, "manifest.json"), "w") as file:
    file.write('{"format_version": 1, ')
  with pytest.raises(DataError, match="not valid JSON"):
    open_source(directory, "train")


def test_not_a_data_set(tmp_path):
  with pytest.raises(DataError, match=re.escape(str(tmp_path))):
    open_source(str(tmp_path), "train")
  with pytest.raises(SpecError, match="did you mean 'fashion_mnist'"):
    open_source("fashion-mnist", "train")
  with pytest.raises(DataError, match="neither an embedded set"):
    open_source("/nowhere/at/all", "train")


def test_split_that_was_not_built(directory):
  with pytest.raises(DataError, match="no heldout split"):
    open_source(directory, "heldout")


def test_the_least_recently_read_shards_close(directory, marked):
  source = ShardSource(directory, "train", max_open_records=10)
  for index in (0, 6, 11, 21, 1, 7):
    np.testing.assert_array_equal(source.read(index).image, marked[index])
    assert len(source._readers) <= 2
  # A shard larger than the limit can still be read.
  small = ShardSource(directory, "train", max_open_records=2)
  assert small.read(12).labels == (0,)
  assert len(small._readers) == 1


def test_records_of_several_labels(tmp_path):
  images = marked_set.images()[:3]
  schema = Schema(encoding="jpeg", image_shape=(4, 4, 1), multilabel=True)
  labels = [(0, 2), (1,), (2, 1, 0)]
  ingest.write(
    str(tmp_path),
    {"train": zip(images, labels, strict=True)},
    name="several",
    schema=schema,
    class_names=("a", "b", "c"),
    source="a test",
    licence="none",
  )
  source = open_source(str(tmp_path), "train")
  assert [source.read(i).labels for i in range(3)] == labels
  assert source.labels().tolist() == [0, 1, 2]
  for record, image in enumerate(images):
    assert np.abs(source.read(record).image - image.astype(int)).max() < 30
