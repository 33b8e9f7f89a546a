import jax
import numpy as np
import pytest
from scipy import ndimage

from bigscale.metrics.ms_ssim import intra_class_ms_ssim, ms_ssim, scales_of
from bigscale.spec import SpecError

SHAPE = (8, 32, 32, 2)


def _smooth_images(count, seed, shape=SHAPE[1:]):
  noise = np.random.default_rng(seed).normal(size=(count, *shape))
  smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
  return np.clip(128 + 400 * smooth, 0, 255).astype(np.uint8)


def _noise(seed):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, SHAPE).astype(np.uint8)


def _direct(a, b):
  """Computes two-scale MS-SSIM of one 32 px channel with scipy, in float64."""

  def blur(x):
    inside = slice(5, -5)
    # 11 taps, because scipy's radius is round(truncate * sigma).
    return ndimage.gaussian_filter(x, 1.5, truncate=5 / 1.5)[inside, inside]

  result = 1.0
  weights = np.array([0.0448, 0.2856]) / (0.0448 + 0.2856)
  a, b = a.astype(np.float64), b.astype(np.float64)
  for scale, weight in enumerate(weights):
    if scale == 1:
      a, b = (x.reshape(16, 2, 16, 2).mean((1, 3)) for x in (a, b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance = blur(a * b) - blur(a) * blur(b)
    variances = blur(a * a) - blur(a) ** 2 + blur(b * b) - blur(b) ** 2
    value = (2 * covariance + c2) / (variances + c2)
    if scale == 1:
      luminance = 2 * blur(a) * blur(b) + c1
      value *= luminance / (blur(a) ** 2 + blur(b) ** 2 + c1)
    result *= max(value.mean(), 0) ** weight
  return result


@pytest.mark.parametrize("darker", [1, 8])
def test_value_matches_the_definition(darker):
  a = _smooth_images(8, 0)
  mixed = 0.6 * a + 0.4 * _smooth_images(8, 1) - 20
  b = np.clip(mixed, 0, 255).astype(np.uint8)
  # The constants matter for dark images.
  a, b = a // darker, b // darker
  values = np.asarray(ms_ssim(a, b))
  expected = [
    np.mean([_direct(x[..., c], y[..., c]) for c in range(2)])
    for x, y in zip(a, b, strict=True)
  ]
  assert 0.2 < min(expected) < max(expected) < 0.99
  np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_an_image_equals_itself_and_noise_differs():
  for images in (_smooth_images(8, 0), _noise(0), np.zeros(SHAPE, np.uint8)):
    np.testing.assert_allclose(ms_ssim(images, images), 1, rtol=1e-6)
  assert np.asarray(ms_ssim(_noise(0), _noise(1))).max() < 0.1


def test_number_of_scales_depends_on_the_side():
  sides = {22: 2, 32: 2, 43: 2, 44: 3, 64: 3, 128: 4, 175: 4, 176: 5, 1024: 5}
  assert {side: scales_of(side, side) for side in sides} == sides
  assert scales_of(256, 32) == 2
  with pytest.raises(SpecError, match=r"21 x 64 px are too small .* 22 px"):
    scales_of(21, 64)


@pytest.mark.parametrize("side", [23, 45, 181])
def test_every_scale_has_a_window(side):
  images = jax.ShapeDtypeStruct((1, side, side, 1), np.uint8)
  assert jax.eval_shape(ms_ssim, images, images).shape == (1,)


@pytest.fixture(scope="module")
def classes():
  """Class 3 repeats one image, class 5 is noise, class 9 has two images."""
  same = np.repeat(_smooth_images(1, 0), 6, axis=0)
  images = np.concatenate([same, _noise(0), _smooth_images(2, 2)])
  labels = np.array([3] * 6 + [5] * 8 + [9] * 2)
  order = np.random.default_rng(0).permutation(len(labels))
  return images[order], labels[order]


def test_classes_have_equal_weights(classes):
  images, labels = classes
  result = intra_class_ms_ssim(images, labels, pairs=20, chunk=8)
  assert result.scales == 2
  assert result.classes.tolist() == [3, 5, 9]
  assert result.of_class[0] == pytest.approx(1, rel=1e-6)
  assert result.of_class[1] < 0.05
  two = images[labels == 9]
  pair = ms_ssim(np.repeat(two[:1], 8, 0), np.repeat(two[1:], 8, 0))
  assert result.of_class[2] == pytest.approx(float(pair[0]), rel=1e-6)
  assert 0.05 < result.of_class[2] < 0.95
  assert result.ms_ssim == pytest.approx(result.of_class.mean())


def test_pairs_depend_on_the_seed(classes):
  images, labels = classes
  runs = [
    intra_class_ms_ssim(images, labels, pairs=5, chunk=8, seed=seed).ms_ssim
    for seed in (0, 0, 1)
  ]
  assert runs[0] == runs[1] != runs[2]


def test_images_without_pairs_are_refused(classes):
  images, labels = classes
  lonely = np.where(np.arange(16) == 4, 1, 0)
  with pytest.raises(SpecError, match=r"class 1 \(owl\) has 1 image.*at least"):
    intra_class_ms_ssim(images, lonely, class_names=["cat", "owl"])
  with pytest.raises(SpecError, match="are float32"):
    intra_class_ms_ssim(images.astype(np.float32), labels)
  with pytest.raises(SpecError, match="no images"):
    intra_class_ms_ssim(images[:0], labels[:0])
  with pytest.raises(SpecError, match="pairs=0"):
    intra_class_ms_ssim(images, labels, pairs=0)
