import hashlib
import os

import numpy as np
import pytest
from marked_set import read

from bigscale.data import ingest
from bigscale.data.openers import EMBEDDED, open_source
from bigscale.data.reading import LabelledImages, read_many
from bigscale.data.shards import ShardSource
from bigscale.data.verify import verify

DIRECTORY = os.path.dirname(ingest.__file__) + "/embedded"
CLASSES = {"fashion_mnist": 10, "emoji": 9}
SHAPES = {"fashion_mnist": (28, 28, 1), "emoji": (32, 32, 3)}
COUNTS = {
  ("fashion_mnist", "train"): [900] * 10,
  ("fashion_mnist", "heldout"): [100] * 10,
  ("emoji", "train"): [152, 343, 143, 118, 196, 77, 238, 202, 235],
  ("emoji", "heldout"): [17, 38, 16, 13, 22, 8, 26, 22, 26],
}


def read_all(name, split):
  source = open_source(name, split)
  return LabelledImages(*read(source, range(len(source))))


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize("name", EMBEDDED)
def test_counts_and_shapes(name, split):
  source = open_source(name, split)
  images, labels = read_all(name, split)
  assert source.num_classes == len(source.class_names) == CLASSES[name]
  assert images.shape == (len(source), *SHAPES[name])
  assert images.dtype == np.uint8
  histogram = np.bincount(labels, minlength=CLASSES[name])
  assert histogram.tolist() == COUNTS[name, split]


@pytest.mark.parametrize("name", EMBEDDED)
def test_images_are_unique_across_splits(name):
  images = [image.tobytes() for image in read_all(name, "train").images]
  images += [image.tobytes() for image in read_all(name, "heldout").images]
  assert len(set(images)) == len(images)


@pytest.mark.parametrize("name", EMBEDDED)
def test_valid_and_licensed(name):
  path = os.path.join(DIRECTORY, name)
  assert verify(path) == ()
  with open(os.path.join(path, "LICENSE"), encoding="utf-8") as file:
    text = file.read()
  assert {"fashion_mnist": "Zalando", "emoji": "Apache License"}[name] in text


def test_small_enough_to_ship():
  files = [
    os.path.join(folder, file)
    for folder, _, names in os.walk(DIRECTORY)
    for file in names
  ]
  assert sum(map(os.path.getsize, files)) <= 8e6


def test_images_have_known_statistics():
  fashion = read_all("fashion_mnist", "train")
  # The canonical mean of the test set is 0.2868. Trousers are mostly black.
  assert abs(fashion.images.mean() / 255 - 0.2868) < 0.002
  trousers = fashion.images[fashion.labels == 1].mean(axis=(0, 3))
  assert trousers[:, 12:16].mean() > 3 * trousers[:, :4].mean()
  emoji = read_all("emoji", "train").images
  corners = emoji[:, [0, 0, -1, -1], [0, -1, 0, -1]]
  assert np.median(corners) == 255
  assert emoji.mean() < 240
  color = np.ptp(emoji.astype(int), axis=-1).max(axis=(1, 2))
  assert np.median(color) > 100


def test_identity_depends_on_content_and_split():
  identities = {
    open_source(name, split).identity
    for name in EMBEDDED
    for split in ("train", "heldout")
  }
  assert len(identities) == 4
  again = ShardSource(os.path.join(DIRECTORY, "emoji"), "train")
  assert again.identity in identities


def test_clothes_are_padded_as_in_earlier_versions():
  """Digests of pixels and labels from versions that padded all 28 px images."""
  before = {
    ("train", 16): "088d84ccd8ef99b2",
    ("heldout", 16): "b283d018a65fcdcd",
    ("heldout", 32): "bbfc0bfc93c3e9bf",
    ("heldout", 28): "99f26e329cffa8db",
  }
  found = {}
  for split, side in before:
    source = open_source("fashion_mnist", split)
    images, labels = read_many(source, range(len(source)), side, 1)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes())
    found[split, side] = digest.hexdigest()[:16]
  assert found == before
  # Runs of these versions can be resumed.
  source = open_source("fashion_mnist", "train")
  assert source.earlier_identity == "fashion_mnist/train@e573d516fdf59137"
