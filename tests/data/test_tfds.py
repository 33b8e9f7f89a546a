"""TFDS sets prepared in advance are read without TensorFlow."""

import collections
import json
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest
import tiny_tfds
from array_record.python import array_record_module

from bigscale.data import tfds as ours
from bigscale.data import tfds_info
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.sources import BadRecordError

RECORDS = tiny_tfds.RECORDS


@pytest.fixture(scope="module")
def prepare(tmp_path_factory):
  """Prepares a set once, and returns its name and folder."""
  made = {}

  def get(kind="encoded", splits=("train",)):
    if (kind, splits) not in made:
      folder = str(tmp_path_factory.mktemp("tfds"))
      builder = tiny_tfds.TinyTfds(kind=kind, splits=splits, data_dir=folder)
      builder.download_and_prepare(file_format="array_record")
      made[kind, splits] = f"tiny_tfds@{folder}"
    return made[kind, splits]

  return get


@pytest.fixture
def copied(prepare, tmp_path):
  """A copy of a set that tests may damage: its name and folder of files."""
  name, _, folder = prepare().partition("@")
  shutil.copytree(folder, tmp_path / "set")
  return f"{name}@{tmp_path}/set", tmp_path / "set" / "tiny_tfds" / "1.0.0"


def everything(source):
  """Counts how often each (image, labels) is read."""
  samples = [source.read(i) for i in range(len(source))]
  return collections.Counter((s.image.tobytes(), s.labels) for s in samples)


def expected(invert=False):
  return collections.Counter(
    ((255 - image if invert else image).tobytes(), (label,))
    for image, label in tiny_tfds.samples()
  )


def test_train_and_held_out_tail_form_the_train_split(prepare):
  train = open_source(f"tfds:{prepare()}", "train")
  heldout = open_source(f"tfds:{prepare()}", "heldout")
  assert (len(train), len(heldout)) == (RECORDS - 1, 1)
  assert everything(train) + everything(heldout) == expected()
  assert train.class_names == tiny_tfds.CLASSES
  assert train.identity != heldout.identity
  for source in (train, heldout):
    np.testing.assert_array_equal(
      source.labels(), [source.read(i).labels[0] for i in range(len(source))]
    )
    assert sum(source.file_records) == len(source)
    assert source.check() == ()


@pytest.mark.parametrize(
  "splits", [("train", "test"), ("train", "test", "validation")]
)
def test_a_validation_or_test_split_is_held_out(prepare, splits):
  name = prepare(splits=splits)
  heldout = ours.TfdsSource(name, "heldout")
  assert everything(ours.TfdsSource(name)) == expected()
  assert everything(heldout) == expected(invert=True)
  assert f"/{splits[-1]}@" in heldout.identity


def test_read_bytes_returns_the_encoded_image(prepare):
  source = ours.TfdsSource(prepare())
  data, labels = source.read_bytes(3)
  assert data.startswith(b"\x89PNG")
  assert labels == source.read(3).labels


def test_a_tensor_is_an_image_too(prepare):
  source = ours.TfdsSource(prepare("tensor", ("train", "test")))
  assert everything(source) == expected()
  assert source.read(0).image.shape == (32, 32, 3)
  assert source.read_bytes(0) == (b"", source.read(0).labels)


def test_a_set_without_class_labels_is_unlabeled(prepare):
  source = ours.TfdsSource(prepare("unlabeled"))
  assert source.num_classes == 0
  assert source.read(0).labels == ()
  assert not source.labels().any()


def test_the_supervised_label_is_used(prepare):
  source = ours.TfdsSource(prepare("supervised", ("train", "test")))
  assert everything(source) == expected()
  with pytest.raises(DataError, match=r"2 features .* the label.*coarse"):
    ours.TfdsSource(prepare("several"))


def test_records_of_many_files_are_found(prepare, monkeypatch):
  info = tfds_info.open_info(prepare())
  (whole,) = info.splits["train"].file_instructions
  monkeypatch.setattr(ours, "MAX_OPEN_FILES", 1)
  source = ours.TfdsSource(prepare())
  order = [source.read(i) for i in range(len(source))]
  # As if the split were records 2-6 of one file, then 10-20 of another.
  source._files = (
    ours._File(whole.filename, 2, 5),
    ours._File(whole.filename, 10, 11),
  )
  source._ends = np.array([5, 16])
  assert len(source) == 16
  for index, place in ((0, 2), (4, 6), (5, 10), (15, 20), (1, 3)):
    assert source.read(index).image.tobytes() == order[place].image.tobytes()
  assert len(source._readers) == 1
  with pytest.raises(IndexError):
    source.read(16)
  np.testing.assert_array_equal(
    source.labels(), [source.read(i).labels[0] for i in range(16)]
  )


def test_pickled_sources_are_thread_safe(prepare):
  source = ours.TfdsSource(prepare())
  source.read(0)
  copy = pickle.loads(pickle.dumps(source))
  assert copy.identity == source.identity
  expected = everything(source)
  with futures.ThreadPoolExecutor(6) as pool:
    found = list(pool.map(everything, [copy] * 6))
  assert found == [expected] * 6


def test_another_process_reads_it_without_tensorflow(prepare, copied):
  # It also reads from another folder, with the same identity.
  program = (
    "import sys; from bigscale.data.tfds import TfdsSource\n"
    "s = TfdsSource(sys.argv[1]); s.read(0)\n"
    "assert 'tensorflow' not in sys.modules\n"
    "assert 'tiny_tfds' not in sys.modules\n"
    "print(s.identity)"
  )
  command = [sys.executable, "-c", program, copied[0]]
  printed = subprocess.run(command, capture_output=True, text=True, check=True)
  assert printed.stdout.strip() == ours.TfdsSource(prepare()).identity


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("tiny_tfds", "is not prepared in .*tfds build tiny_tfds"),
    ("tiny_tfds:2.0.0", "is not prepared.*tfds.builder\\('tiny_tfds:2.0.0'"),
    ("kaggle:tiny", "namespace kaggle"),
    ("no name", "check the name"),
    ("", "check the name"),
  ],
)
def test_unprepared_sets_are_rejected(tmp_path, name, message):
  with pytest.raises(DataError, match=message):
    open_source(f"tfds:{name}@{tmp_path}", "train")


def test_a_version_may_be_named(prepare):
  name, _, folder = prepare().partition("@")
  source = ours.TfdsSource(f"{name}:1.0.0@{folder}")
  assert source.identity == ours.TfdsSource(prepare()).identity


def test_a_set_in_another_format_is_rejected(copied):
  name, folder = copied
  path = folder / "dataset_info.json"
  about = json.loads(path.read_text())
  about["fileFormat"] = "tfrecord"
  path.write_text(json.dumps(about))
  with pytest.raises(DataError, match=r"in the format tfrecord.*array_record"):
    ours.TfdsSource(name)


def test_a_set_without_a_train_split_is_rejected(prepare):
  with pytest.raises(DataError, match="no train split, only test"):
    ours.TfdsSource(prepare(splits=("test",)))


def test_a_set_without_images_is_rejected(copied):
  name, folder = copied
  path = folder / "features.json"
  about = json.loads(path.read_text())
  del about["featuresDict"]["features"]["picture"]
  path.write_text(json.dumps(about))
  with pytest.raises(DataError, match="0 features that could be the image"):
    ours.TfdsSource(name)


def test_an_unreadable_description_is_rejected(copied):
  name, folder = copied
  (folder / "dataset_info.json").write_text("{")
  with pytest.raises(DataError, match=r"cannot be opened|is not prepared"):
    ours.TfdsSource(name)


def test_check_reports_a_missing_file(copied):
  name, folder = copied
  source = ours.TfdsSource(name)
  (path,) = pathlib.Path(folder).glob("*.array_record*")
  os.remove(path)
  (lost,) = source.check()
  assert "is missing" in lost.message
  assert lost.records == len(source)
  with pytest.raises(BadRecordError) as caught:
    source.read(2)
  assert caught.value.index == 2
  assert caught.value.source == source.name


def test_a_bad_image_raises_a_bad_record_error_with_its_file(
  prepare, monkeypatch
):
  source = ours.TfdsSource(prepare())

  def spoiled(data):
    raise ValueError("it does not decode")

  monkeypatch.setattr(ours.images, "decode", spoiled)
  with pytest.raises(BadRecordError, match=r"5 of .*array_record.*not decode"):
    source.read(5)


def test_a_label_out_of_range_is_a_bad_record(prepare):
  source = ours.TfdsSource(prepare())
  source.class_names = ("one",)
  index = int(np.flatnonzero(source.labels() == 2)[0])
  with pytest.raises(BadRecordError, match=r"its label 2 is not in \[0, 1\)"):
    source.read(index)


def test_unread_splits_are_noted(prepare):
  source = ours.TfdsSource(prepare(splits=("train", "validation", "test")))
  (note,) = source.notes
  assert "validation is held out; splits not read: test (24 records)" in note
  assert ours.TfdsSource(prepare()).notes == ()


def test_classes_without_an_image_are_found(prepare, monkeypatch):
  source = ours.TfdsSource(prepare())
  assert source.empty_classes() == ()
  monkeypatch.setattr(source, "class_names", ("a", "b", "c", "d"))
  assert source.empty_classes() == (3,)


@pytest.mark.parametrize(
  "record",
  [
    b"",
    b"\xff" * 40,
    b"no protocol buffer at all",
    # An example without features, and one whose image is a number.
    b"\x0a\x00",
    b"\x0a\x13\x0a\x11\x0a\x05image\x12\x08\x1a\x06\x0a\x04\x01\x02\x03\x04",
  ],
)
def test_an_invalid_example_is_a_bad_record(copied, record):
  name, folder = copied
  (path,) = folder.glob("*.array_record*")
  reader = array_record_module.ArrayRecordReader(str(path))
  records = reader.read_all()
  writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
  for row in [record, *records[1:]]:
    writer.write(row)
  writer.close()
  source = ours.TfdsSource(name)
  for read in (source.read, source.shape, source.read_bytes, source.labels_of):
    with pytest.raises(BadRecordError, match=r"record 0 of .*array_record"):
      read(0)
  with pytest.raises(BadRecordError, match=r"record 0 of .*array_record"):
    source.labels()
  assert source.empty_classes() == ()
  assert source.label_counts().sum() == len(source) - 1
  assert source.read(1).image.shape == (32, 32, 3)
