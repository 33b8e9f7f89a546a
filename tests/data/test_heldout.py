"""Held-out batches depend only on the seed and their number."""

import numpy as np
import pytest

from bigscale.data.heldout import Heldout
from bigscale.data.reading import open_data, read_many
from bigscale.spec import DataSpec

SPEC = DataSpec(source="fashion_mnist")
COUNT = 12


def heldout(rows=None, *, seed=3, num_classes=10, count=COUNT, spec=SPEC):
  rows = np.arange(count) if rows is None else np.array(rows)
  return Heldout(
    spec,
    resolution=28,
    channels=1,
    num_classes=num_classes,
    count=count,
    rows=rows,
    seed=seed,
  )


def same(a, b):
  return np.array_equal(a.images, b.images) and np.array_equal(
    a.labels, b.labels
  )


def test_shapes_and_dtypes():
  batch = heldout().batch(0)
  assert batch.images.shape == (1, COUNT, 28, 28, 1)
  assert batch.images.dtype == np.uint8
  assert batch.labels.shape == (1, COUNT)
  assert batch.labels.dtype == np.int32
  assert len(set(batch.labels.ravel().tolist())) > 3


def test_a_batch_is_a_function_of_seed_and_number():
  one, other = heldout(), heldout()
  # In another order, and repeatedly.
  batches = [one.batch(n) for n in range(4)]
  for number in (2, 0, 3, 1, 2):
    assert same(other.batch(number), batches[number])
  assert not same(batches[0], batches[1])
  assert not same(heldout(seed=4).batch(0), batches[0])


def test_batches_repeat():
  batches = heldout()
  assert same(batches.batch(1), batches.batch(5))
  assert same(batches.batch(1), batches.batch(1_000_001))
  assert not same(batches.batch(1), batches.batch(6))


@pytest.mark.parametrize("number", [0, 3])
def test_rows_of_all_processes_form_the_batch(number):
  whole = heldout().batch(number)
  # Not contiguous, as in `rows.local_rows`.
  parts = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
  for rows in parts:
    part = heldout(rows).batch(number)
    np.testing.assert_array_equal(part.images, whole.images[:, rows])
    np.testing.assert_array_equal(part.labels, whole.labels[:, rows])


def test_no_record_is_a_training_record():
  """The set contains a few exact copies of its own images."""
  batches = heldout(count=100)
  pixels = np.concatenate(
    [batches.batch(n).images.reshape(100, -1) for n in range(4)]
  )
  train = open_data(SPEC, "train")
  seen = {train.read(i).image.tobytes() for i in range(len(train))}
  held = open_data(SPEC, "heldout")
  unseen = {held.read(i).image.tobytes() for i in range(len(held))}
  drawn = [image.tobytes() for image in pixels]
  assert all(image in unseen for image in drawn)
  assert not any(image in seen for image in drawn)


def test_labels_are_0_without_classes():
  batch = heldout(num_classes=0).batch(0)
  np.testing.assert_array_equal(batch.labels, 0)
  np.testing.assert_array_equal(batch.images, heldout().batch(0).images)


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_images_are_padded_like_training_images(padding):
  spec = DataSpec(source="fashion_mnist", padding=padding)
  batches = Heldout(
    spec,
    resolution=32,
    channels=1,
    num_classes=10,
    count=COUNT,
    rows=np.arange(COUNT),
    seed=3,
  )
  source = open_data(spec, "heldout")
  every = read_many(source, range(len(source)), 32, 1).images
  known = {image.tobytes() for image in every}
  assert all(image.tobytes() in known for image in batches.batch(0).images[0])
