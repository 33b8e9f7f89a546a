"""Comparisons of a grid of samples with the anchor."""

import numpy as np
import pytest

from bigscale.monitor.anchors.data import DataAnchor, Described
from bigscale.monitor.anchors.fakes import FakesAnchor, make_grid

_CLASSES, _COUNT = 4, 64


def _images(labels: np.ndarray, seed: int, *, spread: float = 1.0) -> Described:
  rng = np.random.default_rng(seed)
  centers = np.random.default_rng(0).standard_normal((_CLASSES, 8)) * 2
  features = centers[labels] + spread * rng.standard_normal((len(labels), 8))
  surprisal = np.full(len(labels), 0.1)
  pixels = rng.standard_normal((len(labels), 5))
  return Described(pixels, features, surprisal, labels)


def _anchor() -> FakesAnchor:
  labels = np.random.default_rng(1).integers(_CLASSES, size=4096)
  data = DataAnchor(_images(labels.astype(np.int32), 2), _CLASSES, 32, 1e-5)
  return FakesAnchor(data, make_grid(_COUNT, _CLASSES))


def test_the_grid_repeats_the_latents_for_each_label():
  grid = make_grid(64, 10)
  assert grid.classes == 8
  assert grid.per_label == 8
  assert len(set(grid.labels.tolist())) == 8
  np.testing.assert_array_equal(grid.latents.reshape(8, 8)[3], np.arange(8))


@pytest.mark.parametrize("count", [2, 8, 50, 64, 250])
@pytest.mark.parametrize("classes", [0, 1, 7, 1000])
def test_the_grid_has_the_size_of_a_batch(count, classes):
  grid = make_grid(count, classes)
  assert grid.labels.shape == grid.latents.shape == (count,)
  assert grid.labels.max() < max(classes, 1)
  assert grid.classes * grid.per_label <= count


def test_real_images_are_near_the_anchor():
  grid = make_grid(_COUNT, _CLASSES)
  reals = _images(grid.labels, 5)
  found = _anchor().look(reals, reals)
  assert found["distance"] < 0.1
  assert found["accuracy"] == 1
  assert found["by_latent"] > 0.8
  assert found["by_label"] > 0.8
  assert found["average_behind"] == pytest.approx(1)


def test_ignored_latents_and_labels_are_found():
  grid, anchor = make_grid(_COUNT, _CLASSES), _anchor()
  reals = _images(grid.labels, 5)
  no_latents = anchor.look(_images(grid.labels, 6, spread=0.01), reals)
  assert no_latents["by_latent"] < 0.01
  assert no_latents["average_behind"] > 2
  other = _images(np.zeros_like(grid.labels), 7)
  no_labels = anchor.look(other._replace(labels=grid.labels), reals)
  assert no_labels["by_label"] < 0.1
  assert no_labels["distance"] > 1
