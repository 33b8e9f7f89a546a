"""The sheet of samples next to their nearest train images."""

import json

import numpy as np
import pytest

from bigscale.data.openers import open_source
from bigscale.data.sources import BadRecordError
from bigscale.metrics import memorization
from bigscale.metrics.features import Embedding
from bigscale.metrics.memorization import search


class Pixels:
  """A network whose features are the pixels."""

  name = "pixels"

  def __init__(self):
    self.calls = 0

  def embed(self, images):
    self.calls += 1
    features = images.reshape(len(images), -1).astype(np.float32)
    return Embedding(features, np.ones((len(images), 1), np.float32))


@pytest.fixture(scope="module")
def splits(textures):
  return open_source(textures, "train"), open_source(textures, "heldout")


def test_copies_come_first_next_to_their_originals(
  splits, make_images, monkeypatch
):
  monkeypatch.setattr(memorization, "_PART", 150)
  train, heldout = splits
  samples, _ = make_images(40, 7)
  copied = {5: 390, 11: 17, 30: 201}
  for sample, record in copied.items():
    samples[sample] = train.read(record).image
  network = Pixels()
  sheet = search(network, samples, train, heldout)
  said = json.loads(json.dumps(sheet.said))
  assert [row["sample"] for row in said["nearest"][:3]] == [5, 11, 30]
  for row in said["nearest"][:3]:
    assert row["ratio"] == 0
    assert row["train"][0] == copied[row["sample"]]
  assert said["nearest"][3]["ratio"] > 0.3
  assert (said["num_train"], said["num_heldout"]) == (400, 120)
  assert said["memorization_ratio"] == pytest.approx(1, abs=0.1)
  assert said["memorization_ratio"] == pytest.approx(
    said["sample_distance"] / said["heldout_distance"]
  )
  assert said["ratio_quantiles"]["0.01"] == 0
  assert said["ratio_quantiles"]["0.5"] == said["memorization_ratio"]
  rows = sheet.images.reshape(10, sheet.columns, 8, 8, 1)
  assert sheet.columns == 2 + memorization.NEIGHBORS
  for row, sample in zip(rows, (5, 11, 30), strict=False):
    np.testing.assert_array_equal(row[0], samples[sample])
    np.testing.assert_array_equal(row[2], samples[sample])
    assert (row[1] == 255).all()
    assert (row[3] != row[2]).any()


class Torn:
  """A split with some unreadable records."""

  class_names = ()

  def __init__(self, whole, bad):
    self._whole, self._bad, self.identity = whole, bad, "torn"
    self.num_classes = 0

  def __len__(self):
    return len(self._whole)

  def read(self, index):
    if index in self._bad:
      raise BadRecordError("torn", index, "it is torn", "a file")
    return self._whole.read(index)._replace(labels=())


def test_unreadable_records_do_not_shift_indices(
  splits, make_images, monkeypatch
):
  monkeypatch.setattr(memorization, "_PART", 150)
  train, heldout = splits
  samples, _ = make_images(20, 7)
  copied = {5: 390, 11: 17, 12: 201}
  for sample, record in copied.items():
    samples[sample] = train.read(record).image
  bad = (3, 18, 202, 203)
  said = search(Pixels(), samples, Torn(train, bad), Torn(heldout, (0,))).said
  for row in said["nearest"][:3]:
    assert row["train"][0] == copied[row["sample"]]
    assert not set(row["train"]) & set(bad)
  assert (said["num_train"], said["num_heldout"]) == (396, 119)
  assert said["unreadable"] == {"train": 4, "heldout": 1}


def test_a_generator_of_copies_has_a_ratio_near_zero(splits):
  train, heldout = splits
  noise = np.random.default_rng(0).integers(0, 2, (30, 8, 8, 1), np.uint8)
  samples = np.stack([train.read(i).image for i in range(30)])
  samples = samples // 2 * 2 + noise
  said = search(Pixels(), samples, train, heldout).said
  assert 0 < said["memorization_ratio"] < 0.2


def test_many_held_out_reals_are_subsampled(splits, monkeypatch):
  monkeypatch.setattr(memorization, "MOST_SEARCHED", 50)
  train, heldout = splits
  samples = np.stack([heldout.read(i).image for i in range(8)])
  sheet = search(Pixels(), samples, train, heldout)
  assert sheet.said["num_heldout"] == 50
  assert len(sheet.images) == 8 * sheet.columns
