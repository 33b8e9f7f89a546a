"""Images that are kept for scores over pixels."""

import numpy as np
import pytest

from bigscale.metrics import pixels
from bigscale.metrics.ms_ssim import intra_class_ms_ssim
from bigscale.metrics.pixels import ImageKeeper, ImageSelection
from bigscale.spec import SpecError

SHAPE = (24, 24, 1)


def _images(count, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (count, *SHAPE), np.uint8)


def test_the_first_of_each_class_are_kept(monkeypatch):
  monkeypatch.setattr(pixels, "_MAX_BYTES", 2 * 4 * 24 * 24)
  selection = ImageSelection("ms_ssim", SHAPE, ("cat", "owl"))
  assert selection.per_class == 4
  kept = ImageKeeper(selection)
  images = _images(20)
  labels = np.array([0] * 7 + [1, 0, 1] + [1] * 10)
  for rows in (slice(0, 8), slice(8, 11)):
    kept.add(images[rows], labels[rows])
    assert not kept.full
  kept.add(images[11:], labels[11:])
  assert kept.full
  chosen = [0, 1, 2, 3, 7, 9, 10, 11]
  expected = intra_class_ms_ssim(images[chosen], labels[chosen])
  assert kept.scores()["ms_ssim"] == pytest.approx(expected.ms_ssim)


def test_kept_images_are_bounded_by_memory():
  assert ImageSelection("ms_ssim", (32, 32, 3), ("x",) * 10).per_class == 200
  # 1000 classes of 5 images of 192 KiB are just below 1 GiB.
  assert ImageSelection("ms_ssim", (256, 256, 3), ("x",) * 1000).per_class == 5
  assert (
    ImageSelection("ms_ssim", (1024, 1024, 3), ("x",) * 1000).per_class == 2
  )


def test_without_classes_all_images_are_one_class():
  kept = ImageKeeper(ImageSelection("ms_ssim", SHAPE))
  images = _images(6)
  kept.add(images, np.arange(6))
  expected = intra_class_ms_ssim(images, np.zeros(6, int))
  assert kept.scores()["ms_ssim"] == pytest.approx(expected.ms_ssim)


def test_scores_without_images_are_refused():
  with pytest.raises(SpecError, match="no images"):
    ImageKeeper(ImageSelection("ms_ssim", SHAPE)).scores()
