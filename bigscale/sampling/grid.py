"""Arranges images in grids, as arrays and as PNG files."""

import io
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from bigscale import temporary
from bigscale.place import on_disk
from bigscale.spec import require

# Images below this side, in pixels, are hard to see on a screen.
_COMFORTABLE_SIDE = 64


def view_scale(resolution: int) -> int:
  """Returns the magnification that makes an image at least 64 pixels wide.

  Args:
    resolution: height and width of the images, pixels.

  Returns:
    An integer factor for `grid` and `save_png`, 1 or more.
  """
  return max(1, -(-_COMFORTABLE_SIDE // resolution))


def grid(images: np.ndarray, columns: int, *, scale: int = 1) -> np.ndarray:
  """Arranges images row by row, left to right.

  Args:
    images: [N, H, W, C] uint8, N >= 1, C = 1 (gray) or 3 (RGB).
    columns: number of images per row; fewer images form a single row.
    scale: magnification; each pixel becomes `scale` x `scale` pixels.

  Returns:
    [rows * H * scale, min(columns, N) * W * scale, C] uint8. Unused cells are
    black.

  Raises:
    SpecError: an argument has another shape, dtype or range.
  """
  images = np.asarray(images)
  require(
    images.dtype == np.uint8,
    f"a grid shows uint8 images, not {images.dtype}; convert them with "
    "bigscale.ops.images.to_uint8",
  )
  require(
    images.ndim == 4 and images.shape[-1] in (1, 3) and len(images) > 0,
    f"a grid needs images of shape [N, H, W, 1 or 3] with N >= 1, not "
    f"{list(images.shape)}",
  )
  require(
    columns >= 1 and scale >= 1,
    f"a grid with columns={columns} and scale={scale} is empty; both must be "
    "1 or more",
  )
  count, height, width, channels = images.shape
  columns = min(columns, count)
  rows = -(-count // columns)
  cells_nhwc = np.zeros((rows * columns, height, width, channels), np.uint8)
  cells_nhwc[:count] = images
  cells_rchwk = cells_nhwc.reshape(rows, columns, height, width, channels)
  sheet = cells_rchwk.transpose(0, 2, 1, 3, 4).reshape(
    rows * height, columns * width, channels
  )
  return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def png(
  images: np.ndarray,
  columns: int,
  scale: int = 1,
  text: Mapping[str, str] | None = None,
) -> bytes:
  """Returns the grid of `images` as the content of a PNG file.

  Args:
    images: [N, H, W, C] uint8, as for `grid`.
    columns: number of images per row.
    scale: integer magnification; `view_scale` returns one for the screen.
    text: text chunks to store in the file, by name.

  Raises:
    SpecError: see `grid`.
  """
  from PIL import Image
  from PIL.PngImagePlugin import PngInfo

  sheet = grid(images, columns, scale=scale)
  picture = Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)
  info = PngInfo()
  for name, value in (text or {}).items():
    info.add_text(name, value)
  content = io.BytesIO()
  picture.save(content, format="PNG", pnginfo=info)
  return content.getvalue()


def save_png(
  path: str | os.PathLike[str],
  images: np.ndarray,
  columns: int,
  scale: int = 1,
  text: Mapping[str, str] | None = None,
) -> pathlib.Path:
  """Writes the grid of `images` as a PNG, atomically.

  Missing directories are created.

  Args:
    path: file to write or replace.
    images: [N, H, W, C] uint8, as for `grid`.
    columns: number of images per row.
    scale: see `png`.
    text: see `png`.

  Returns:
    The path of the file.

  Raises:
    SpecError: see `grid`.
    OSError: the file cannot be written.
  """
  path = on_disk(path)
  content = png(images, columns, scale, text)
  path.parent.mkdir(parents=True, exist_ok=True)
  with temporary.replacing(path) as partial:
    partial.write_bytes(content)
  return path
