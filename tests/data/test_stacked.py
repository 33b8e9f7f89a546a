"""Tests of stacked digits."""

import pickle

import numpy as np
import pytest

from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
  """Images that show their class and index."""
  path = tmp_path_factory.mktemp("digits") / "digits.npz"
  images = np.zeros((400, 4, 4), np.uint8)
  labels = np.arange(400) % 10
  images[:, 0, 0] = labels
  images[:, 0, 1] = np.arange(400) % 251
  np.savez(path, images=images, labels=labels)
  return f"stacked:{path}"


def test_a_stack_has_three_digits_and_their_combined_label(digits):
  stacks = open_source(digits, "train")
  assert stacks.num_classes == 1000
  assert stacks.class_names[123] == "123"
  for index in range(20):
    image, (label,) = stacks.read(index)
    assert image.shape == (4, 4, 3)
    assert label == int("".join(str(d) for d in image[0, 0]))
    assert stacks.labels()[index] == label


def test_all_modes_are_about_equally_frequent(digits):
  stacks = open_source(digits, "train")
  counts = np.bincount(stacks.labels(), minlength=1000)
  assert len(stacks) == len(stacks.labels()) == 128_000
  assert counts.min() > 50
  assert counts.max() < 250


def test_splits_share_no_digits(digits):
  seen = {}
  for split in ("train", "heldout"):
    stacks = open_source(digits, split)
    seen[split] = {
      (int(d), int(w))
      for i in range(300)
      for d, w in stacks.read(i).image[0, :2].T
    }
  assert seen["train"]
  assert not seen["train"] & seen["heldout"]


def test_digits_depend_only_on_the_index(digits):
  stacks = open_source(digits, "train")
  again = pickle.loads(pickle.dumps(open_source(digits, "train")))
  for index in (0, 99_999):
    np.testing.assert_array_equal(
      stacks.read(index).image, again.read(index).image
    )
  assert stacks.identity == again.identity
  assert stacks.identity != open_source(digits, "heldout").identity
  with pytest.raises(IndexError):
    stacks.read(128_000)


@pytest.mark.parametrize(
  ("images", "labels"),
  [
    (np.zeros((100, 4, 4, 3), np.uint8), np.arange(100) % 10),
    (np.zeros((100, 4, 4), np.uint8), None),
  ],
)
def test_color_and_unlabeled_digits_are_rejected(tmp_path, images, labels):
  kept = {} if labels is None else {"labels": labels}
  np.savez(tmp_path / "other.npz", images=images, **kept)
  with pytest.raises(DataError, match="gray images with one label"):
    open_source(f"stacked:{tmp_path / 'other.npz'}", "train")
