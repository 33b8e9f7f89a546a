"""A tiny labeled data set whose classes differ only in texture."""

import numpy as np
import pytest

from bigscale.data import ingest
from bigscale.data.manifest import Schema

SIDE = 8
NUM_CLASSES = 3


def _make_images(count, seed):
  """Returns [N, 8, 8, 1] stripes or checks of random phase, and labels."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, NUM_CLASSES, count).astype(np.int32)
  row, column = np.indices((SIDE, SIDE))
  patterns = np.stack([row % 2, column % 2, (row + column) % 2])[labels]
  phase = rng.integers(0, 2, (count, 1, 1))
  bright = rng.uniform(120, 220, (count, 1, 1)) * (patterns ^ phase)
  images = bright + rng.uniform(0, 30, (count, SIDE, SIDE))
  return images.astype(np.uint8)[..., None], labels


def _write_source(directory, class_names, train=400, heldout=120):
  """Writes the data set; without class names, every label is 0."""

  def samples(count, seed):
    images, labels = _make_images(count, seed)
    used = labels % max(len(class_names), 1)
    return list(zip(images, used.tolist(), strict=True))

  ingest.write(
    str(directory),
    {"train": samples(train, 1), "heldout": samples(heldout, 2)},
    name="textures",
    schema=Schema(encoding="raw", image_shape=(SIDE, SIDE, 1)),
    class_names=class_names,
    source="made by the tests",
    licence="Apache-2.0",
  )
  return str(directory)


@pytest.fixture(scope="session")
def make_images():
  """Returns `make_images(count, seed)`, which makes images and labels."""
  return _make_images


@pytest.fixture(scope="session")
def write_source():
  """Returns `write_source(directory, class_names, ...)`."""
  return _write_source


@pytest.fixture(scope="session")
def textures(tmp_path_factory):
  """The directory of the data set."""
  directory = tmp_path_factory.mktemp("data") / "textures"
  return _write_source(directory, ("rows", "columns", "checks"))
