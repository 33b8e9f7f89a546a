"""Sources without files: arrays and synthetic images."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from bigscale.data.arrays import ArraySource, open_npz
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.data.splits import held_out
from bigscale.data.synthetic import SyntheticSource, open_synthetic


def arrays(records=200):
  """Returns images that show their index, and labels i mod K."""
  images = np.zeros((records, 4, 5, 3), np.uint8)
  images[:, 0, 0, 0] = np.arange(records) % 256
  return images, np.arange(records) % 4


def test_splits_are_disjoint_and_complete():
  images, labels = arrays()
  found = []
  for split in ("train", "heldout"):
    source = ArraySource(images, labels, split=split, heldout_fraction=0.2)
    for i in range(len(source)):
      image, own = source.read(i)
      assert own == (image[0, 0, 0] % 4,)
      found.append(int(image[0, 0, 0]))
    np.testing.assert_array_equal(
      source.labels(), [source.read(i).labels[0] for i in range(len(source))]
    )
  assert sorted(found) == list(range(200))


def test_the_requested_fraction_of_every_class_is_held_out():
  mask = held_out(np.arange(200_000), 0.05)
  for label in range(4):
    assert abs(mask[label::4].mean() - 0.05) < 0.004
  assert not held_out(np.arange(1000), 0.0).any()
  assert held_out(np.arange(1000), 1.0).all()


def test_adding_images_moves_no_others_between_splits():
  places = np.arange(1000)
  np.testing.assert_array_equal(
    held_out(places, 0.05), held_out(np.arange(5000), 0.05)[:1000]
  )


def test_identities_are_equal_only_for_equal_content():
  images, labels = arrays()
  identity = ArraySource(images, labels).identity
  assert ArraySource(images.copy(), labels.copy()).identity == identity
  changed = images.copy()
  changed[0, 0, 0, 0] ^= 1
  others = [
    ArraySource(changed, labels),
    ArraySource(images, (labels + 1) % 4),
    ArraySource(images, labels, split="heldout"),
    ArraySource(images, labels, class_names=("a", "b", "c", "d")),
    ArraySource(images),
  ]
  assert len({identity, *(other.identity for other in others)}) == 6


def test_unlabeled_arrays_have_no_labels():
  source = ArraySource(arrays()[0])
  assert source.num_classes == 0
  assert source.class_names == ()
  assert source.read(3).labels == ()
  assert not source.labels().any()


def test_gray_images_get_a_channel():
  source = ArraySource(np.zeros((50, 4, 5), np.uint8))
  assert source.read(0).image.shape == (4, 5, 1)


def test_an_array_source_is_read_only_and_survives_pickling():
  images, labels = arrays()
  source = ArraySource(images, labels)
  with pytest.raises(ValueError, match="read-only"):
    source.read(0).image[:] = 1
  copy = pickle.loads(pickle.dumps(source))
  assert copy.identity == source.identity
  np.testing.assert_array_equal(copy.read(7).image, source.read(7).image)


def test_npz_is_opened_by_path(tmp_path):
  images, labels = arrays()
  path = str(tmp_path / "set.npz")
  np.savez(path, images=images, labels=labels, class_names=list("abcd"))
  source = open_source(path, "train")
  assert source.class_names == ("a", "b", "c", "d")
  assert source.identity.startswith("array/train@")
  assert source.name == "set/train"
  assert source.file_records == (len(source),)
  np.savez(path, images=images)
  assert open_source(path, "train").num_classes == 0


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"images": np.zeros((3, 4, 4, 2), np.uint8)}, "C = 1 or 3"),
    ({"images": np.zeros((3, 4, 4), np.float32)}, "float32"),
    ({"images": np.zeros((0, 4, 4), np.uint8)}, "empty"),
    ({"labels": np.zeros(3, int)}, "one for every image"),
    ({"labels": np.full(200, 0.5)}, "float64"),
    ({"labels": np.full(200, -1)}, "renumber the classes from 0"),
    ({"labels": np.full(200, 2**31)}, "renumber the classes"),
    ({"class_names": ("a",)}, "class_names has length 1"),
    ({"heldout_fraction": 1.5}, "heldout_fraction=1.5"),
    ({"heldout_fraction": 0.0, "split": "heldout"}, "none is in"),
    ({"split": "test"}, "split='test'"),
  ],
)
def test_invalid_arrays_are_rejected(given, message):
  images, labels = arrays()
  default = {"images": images, "labels": labels}
  if "images" in given:
    default["labels"] = None
  with pytest.raises(DataError, match=message):
    ArraySource(**{**default, **given})


def test_class_names_without_labels_are_rejected():
  with pytest.raises(DataError, match="no labels"):
    ArraySource(arrays()[0], class_names=("a",))


def test_an_npz_without_images_is_rejected(tmp_path):
  path = tmp_path / "set.npz"
  with pytest.raises(DataError, match="cannot be read"):
    open_npz(str(path))
  path.write_bytes(b"PK\3\4 and then nothing")
  with pytest.raises(DataError, match="cannot be read"):
    open_npz(str(path))
  np.savez(path, pictures=arrays()[0])
  with pytest.raises(DataError, match="pictures, but no 'images'"):
    open_npz(str(path))
  np.savez(path, images=np.array([{}]))
  with pytest.raises(DataError, match="cannot be read"):
    open_npz(str(path))


def test_a_trillion_records_take_no_memory_and_are_all_different():
  source = open_source(f"synthetic:{2**40}:16:10", "train")
  assert len(source) == 2**40
  places = [0, 1, 2, 2**32, 2**32 + 1, 2**40 - 1]
  images = {source.read(place).image.tobytes() for place in places}
  assert len(images) == len(places)
  assert len(pickle.dumps(source)) < 1000
  with pytest.raises(IndexError):
    source.read(2**40)


def test_synthetic_records_are_the_same_in_another_process():
  program = (
    "from bigscale.data.synthetic import open_synthetic\n"
    "import hashlib\n"
    "s = open_synthetic('5000:16:7:3')\n"
    "sample = s.read(4321)\n"
    "print(s.identity, sample.labels,"
    " hashlib.sha256(sample.image.tobytes()).hexdigest()[:8])"
  )
  printed = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True
  ).stdout
  # If this digest changes, increase the version of the source.
  assert printed.strip() == PINNED


PINNED = "synthetic:5000:16:7:3/train@v1 (1, 4, 3) 43c2f308"


def test_synthetic_labels_match_records():
  for split in ("train", "heldout"):
    source = SyntheticSource(400, 8, 5, split=split)
    read = [source.read(i).labels for i in range(len(source))]
    np.testing.assert_array_equal(source.labels()[:, None], read)
  counts = np.bincount(SyntheticSource(100_000, 8, 5).labels(), minlength=5)
  assert np.abs(counts / 20_000 - 1).max() < 0.05


def test_multiple_labels_of_a_record_are_distinct():
  source = open_synthetic("3000:8:6:4")
  seen = np.zeros((4, 6))
  for i in range(len(source)):
    labels = source.read(i).labels
    assert len(labels) == len(set(labels)) == 4
    seen[range(4), labels] += 1
  np.testing.assert_array_equal(
    source.labels()[:9], [source.read(i).labels[0] for i in range(9)]
  )
  # 500 expected labels per position, standard deviation 20.
  assert np.abs(seen - 500).max() < 100
  everything = open_synthetic("3:8:6:6")
  assert sorted(everything.read(2).labels) == list(range(6))


def test_a_disc_has_the_hue_of_its_class():
  source = SyntheticSource(300, 16, 3)
  for i in range(100):
    image, (label,) = source.read(i)
    colored = image[np.ptp(image, axis=-1) > 0]
    assert len(colored)
    # Hues 0, 1/3 and 2/3 are red, green and blue.
    assert (colored.argmax(axis=-1) == label).all()


def test_unlabeled_synthetic_images_differ_in_hue():
  source = SyntheticSource(50, 16, 0)
  assert source.num_classes == 0
  assert source.read(0).labels == ()
  strongest = {
    int(image[np.ptp(image, axis=-1) > 0][0].argmax())
    for image in (source.read(i).image for i in range(50))
  }
  assert strongest == {0, 1, 2}


def test_held_out_synthetic_images_are_not_training_images():
  train = SyntheticSource(1000, 16, 10)
  heldout = SyntheticSource(1000, 16, 10, split="heldout")
  assert len(heldout) == 50
  trained = {train.read(i).image.tobytes() for i in range(1000)}
  assert len(trained) == 1000
  assert not trained & {heldout.read(i).image.tobytes() for i in range(50)}
  assert train.identity != heldout.identity


def test_listing_too_many_labels_is_rejected():
  with pytest.raises(DataError, match="too many to list"):
    open_source("synthetic:100_000_001:8:10", "train").labels()


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("1000:64", "RECORDS:SIDE:CLASSES"),
    ("a:64:10", "whole numbers"),
    ("0:64:10", "records=0"),
    (f"{2**40 + 1}:64:10", "records="),
    ("1000:0:10", "side=0"),
    ("1000:64:-1", "classes=-1"),
    ("1000:64:10:11", "labels_per_record=11"),
    ("1000:64:0:2", "labels_per_record=2"),
  ],
)
def test_invalid_synthetic_sources_are_rejected(text, message):
  with pytest.raises(DataError, match=message):
    open_synthetic(text)
