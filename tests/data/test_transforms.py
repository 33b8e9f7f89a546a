import numpy as np
import pytest
from PIL import Image

from bigscale.data import hashing, transforms
from bigscale.data.manifest import DataError


def noise(*shape):
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def fit(images, resolution, channels, padding=0):
  return np.stack(
    [transforms.fit(x, resolution, channels, padding) for x in images]
  )


def test_an_image_that_fits_is_returned():
  image = noise(8, 8, 3)
  assert np.shares_memory(transforms.fit(image, 8, 3), image)


@pytest.mark.parametrize("side", [8, 28, 40])
def test_into_a_row_of_a_batch(side):
  images, batch = noise(2, side, side, 1), np.empty((2, 8, 8, 3), np.uint8)
  for image, row in zip(images, batch, strict=True):
    transforms.fit_into(image, row)
  np.testing.assert_array_equal(batch, fit(images, 8, 3))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [8, 16])
def test_mirrored(side, channels):
  image, turned = noise(side, side, channels), np.empty((8, 8, 3), np.uint8)
  transforms.fit_into(image, turned, mirrored=True)
  expected = transforms.fit(image, 8, 3)[:, ::-1]
  np.testing.assert_array_equal(turned, expected)


def test_padding_frames_28_to_32():
  images = noise(3, 28, 28, 1)
  framed = fit(images, 32, 1, padding=2)
  assert framed.shape == (3, 32, 32, 1)
  np.testing.assert_array_equal(framed[:, 2:30, 2:30], images)
  assert framed.sum(dtype=int) == images.sum(dtype=int)


def test_images_of_the_requested_size_are_not_padded():
  image = noise(28, 40, 3)
  got = transforms.fit(image, 28, 3, padding=2)
  np.testing.assert_array_equal(got, image[:, 6:34])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(27, 27), (28, 28), (29, 29), (28, 40)])
def test_images_are_not_padded_by_default(shape, channels):
  """Earlier versions padded all images with a shorter side of 28 px."""
  gray = np.full((*shape, channels), 150, np.uint8)
  for resolution in (16, 32, 64):
    assert (transforms.fit(gray, resolution, channels) == 150).all()


def test_28_to_16_is_the_block_mean_of_the_padded_image():
  images = noise(3, 28, 28, 1)
  got = fit(images, 16, 1, padding=2)
  framed = fit(images, 32, 1, padding=2).astype(float)
  mean = framed.reshape(3, 16, 2, 16, 2, 1).mean((2, 4))
  np.testing.assert_array_equal(got, np.floor(mean + 0.5).astype(np.uint8))


@pytest.mark.parametrize("side", [28, 32, 20, 8])
def test_gray_to_rgb_repeats(side):
  gray = noise(2, side, side, 1)
  rgb = fit(gray, 16, 3)
  assert rgb.shape == (2, 16, 16, 3)
  for channel in range(3):
    np.testing.assert_array_equal(rgb[..., channel], fit(gray, 16, 1)[..., 0])


def test_rgb_to_gray_is_pillows_luma():
  images = noise(2, 16, 16, 3)
  expected = [
    np.asarray(Image.fromarray(image).convert("L")) for image in images
  ]
  got = fit(images, 16, 1)
  np.testing.assert_array_equal(got[..., 0], np.stack(expected))


def test_oblong_images_are_center_cropped():
  images = noise(2, 8, 14, 3)
  np.testing.assert_array_equal(fit(images, 8, 3), images[:, :, 3:11])


@pytest.mark.parametrize(("side", "resolution"), [(20, 16), (12, 16), (4, 64)])
def test_other_sizes(side, resolution):
  images = noise(3, side, side, 3)
  got = fit(images, resolution, 3)
  assert got.shape == (3, resolution, resolution, 3)
  assert abs(got.mean() - images.mean()) < 4
  np.testing.assert_array_equal(got[1:2], fit(images[1:2], resolution, 3))
  flat = np.full((1, side, side, 1), 77, np.uint8)
  assert (fit(flat, resolution, 1) == 77).all()


@pytest.mark.parametrize(("found", "wanted"), [(4, 3), (2, 1), (3, 4)])
def test_unsupported_channels_are_rejected(found, wanted):
  with pytest.raises(DataError, match=f"{found} channels.*model of {wanted}"):
    fit(noise(1, 4, 4, found), 4, wanted)


def test_splitmix64_known_values():
  # First outputs of the published generator started at 0.
  states = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
  got = hashing.splitmix64(states)
  assert [hex(value) for value in got.tolist()] == [
    "0xe220a8397b1dcdaf",
    "0x6e789e6aa1b965f4",
  ]


def test_bits_differ_by_seed_use_and_index():
  places = np.arange(4096)
  streams = [
    hashing.random_bits(seed, use, places)
    for seed in (0, 1, 2**31 - 1)
    for use in (1, 2)
  ]
  assert len(np.unique(streams)) == 6 * 4096
  bits = (streams[0][:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
  # Five standard deviations of a fair coin.
  assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(4096)
  np.testing.assert_array_equal(
    hashing.random_bits(0, 1, places[::-7]), streams[0][::-7]
  )
