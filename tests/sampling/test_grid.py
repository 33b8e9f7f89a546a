import pathlib

import numpy as np
import pytest
from PIL import Image

from bigscale.sampling.grid import grid, save_png, view_scale
from bigscale.spec import SpecError


def _images(count, channels, side=3):
  size = (count, side, side, channels)
  return np.random.default_rng(0).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_places_images_row_by_row(channels):
  images = _images(6, channels)
  sheet = grid(images, 3)
  assert sheet.shape == (6, 9, channels)
  for i in range(6):
    row, column = divmod(i, 3)
    cell = sheet[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
    np.testing.assert_array_equal(cell, images[i])


def test_grid_leaves_empty_places_black_and_trims_unused_columns():
  images = np.full((3, 2, 2, 1), 9, np.uint8)
  sheet = grid(images, 2)
  assert sheet.shape == (4, 4, 1)
  assert (sheet[2:, 2:] == 0).all()
  assert (sheet[2:, :2] == 9).all()
  assert grid(images, 10).shape == (2, 6, 1)


def test_grid_magnifies_by_repeating_pixels():
  images = _images(2, 3)
  sheet = grid(images, 2, scale=4)
  np.testing.assert_array_equal(sheet[::4, ::4], grid(images, 2))
  np.testing.assert_array_equal(sheet[3::4, 3::4], grid(images, 2))


@pytest.mark.parametrize(
  ("side", "scale"), [(16, 4), (28, 3), (32, 2), (64, 1), (256, 1)]
)
def test_view_scale_makes_small_images_viewable(side, scale):
  assert view_scale(side) == scale


@pytest.mark.parametrize("channels", [1, 3])
def test_save_png_writes_the_grid_and_nothing_else(tmp_path, channels):
  images = _images(4, channels)
  path = save_png(tmp_path / "samples" / "10.png", images, 2, 2)
  with Image.open(path) as picture:
    assert picture.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture).reshape(12, 12, channels)
  np.testing.assert_array_equal(pixels, grid(images, 2, scale=2))
  assert [entry.name for entry in path.parent.iterdir()] == ["10.png"]


def test_save_png_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
  path = save_png(tmp_path / "grid.png", _images(1, 1), 1)
  before = path.read_bytes()

  def torn(partial, content):
    partial.touch()
    raise OSError("disk full")

  monkeypatch.setattr(pathlib.Path, "write_bytes", torn)
  with pytest.raises(OSError, match="disk full"):
    save_png(path, _images(2, 1), 1)
  assert path.read_bytes() == before
  assert [entry.name for entry in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
  ("images", "columns", "scale", "message"),
  [
    (np.zeros((1, 2, 2, 3), np.float32), 1, 1, "float32.*to_uint8"),
    (np.zeros((2, 2, 3), np.uint8), 1, 1, r"\[2, 2, 3\]"),
    (np.zeros((1, 2, 2, 4), np.uint8), 1, 1, r"\[1, 2, 2, 4\]"),
    (np.zeros((0, 2, 2, 3), np.uint8), 1, 1, "N >= 1"),
    (np.zeros((1, 2, 2, 3), np.uint8), 0, 1, "columns=0.*1 or more"),
    (np.zeros((1, 2, 2, 3), np.uint8), 1, 0, "scale=0.*1 or more"),
  ],
)
def test_grid_refuses_invalid_arguments(images, columns, scale, message):
  with pytest.raises(SpecError, match=message):
    grid(images, columns, scale=scale)
