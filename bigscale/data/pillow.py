"""Opens image files with Pillow: of few formats, and none that is too large."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

# As Pillow calls them; the frequent ones first.
FORMATS = (
  *("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF"),
  *("PPM", "JPEG2000", "AVIF"),
)
# As many as Pillow decodes of other formats before it suspects an attack.
MOST_PIXELS = 178_956_970
# The size of an uncompressed RGB image of `MOST_PIXELS`.
MOST_BYTES = 3 * MOST_PIXELS

# Images of up to so many are decoded however few bytes they have.
_FREE_PIXELS = 1 << 24
# A JPEG has at least a bit for every 8 x 8 pixels, unless it is coded
# arithmetically. Of others only blank ones have more pixels than so many.
_JPEG_PIXELS_PER_BYTE, _PIXELS_PER_BYTE = 512, 4096
# Tiles of a TIFF that are larger than it; small images have one of 256 px.
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class RefusedError(ValueError):
  """An image file that is not read; the reason is to be read after "it"."""


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
  """Opens an image file by its content, where it is of one of `FORMATS`.

  Others are no images of this trade, and some start programs (EPS). While it is
  open, Pillow's warnings are silent: of transparent palettes, of odd EXIF.

  Args:
    data: the file, or so much of it that the header is whole.

  Yields:
    The image, not loaded.

  Raises:
    RefusedError: it is of no such format, or claims more pixels than so many
      bytes can hold. Damaged files raise nearly everything else, here and
      where the image is used.
  """
  from PIL import Image, UnidentifiedImageError

  with _quiet:
    try:
      file = Image.open(io.BytesIO(data), formats=FORMATS)
    # Of a format that this Pillow was built without it raises KeyError.
    except (UnidentifiedImageError, KeyError) as error:
      kinds = ", ".join(FORMATS)
      raise RefusedError(
        f"it does not decode (it is no {kinds} that Pillow knows)"
      ) from error
    with file:
      _check_pixels(file.height, file.width, len(data), _PIXELS_PER_BYTE)
      if file.format == "TIFF":
        _check_tiles(file)
      yield file


def is_start(data: bytes) -> bool:
  """Whether a file that starts with these bytes may be one of `FORMATS`."""
  from PIL import Image

  Image.init()
  start = data.ljust(64, b"\0")
  known = [Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN]
  return any(accepts(start) is True for accepts in known)


def check_jpeg(height: int, width: int, size: int) -> None:
  """Refuses a JPEG of so many bytes that claims more pixels than it can hold.

  Raises:
    RefusedError: it does.
  """
  _check_pixels(height, width, size, _JPEG_PIXELS_PER_BYTE)


def _check_pixels(height: int, width: int, size: int, per_byte: int) -> None:
  most = max(per_byte * size, _FREE_PIXELS)
  if height * width > min(most, MOST_PIXELS):
    raise RefusedError(f"it claims {height} x {width} pixels in {size} bytes")


def _check_tiles(image: Any) -> None:
  """Refuses a TIFF that is unpacked in tiles far larger than itself."""
  width, length = (
    int(np.max(image.tag_v2.get(tag, 0))) for tag in (_TILE_WIDTH, _TILE_LENGTH)
  )
  pixels = image.size[0] * image.size[1]
  if width * length > max(_FREE_PIXELS, 4 * pixels):
    raise RefusedError(f"it claims tiles of {length} x {width} pixels")


class _Quiet:
  """Silences Pillow's warnings while any thread is inside.

  `warnings.catch_warnings` in several threads puts back what another one has
  set, and would leave all warnings of the program silent.
  """

  def __init__(self) -> None:
    self._lock = threading.Lock()
    self._inside = 0
    self._saved: Any = None

  def __enter__(self) -> None:
    with self._lock:
      if not self._inside:
        self._saved = warnings.catch_warnings()
        self._saved.__enter__()
        warnings.filterwarnings("ignore", module=r"PIL\.")
      self._inside += 1

  def __exit__(self, *error: object) -> None:
    with self._lock:
      self._inside -= 1
      if not self._inside:
        self._saved.__exit__(*error)


_quiet = _Quiet()
