"""Opens image files of known formats and a limited size with Pillow."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

# Pillow's names, most frequent first.
FORMATS = (
  *("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF"),
  *("PPM", "JPEG2000", "AVIF"),
)
# Pillow's own limit for other formats, above which it suspects an attack.
MOST_PIXELS = 178_956_970
# The size of an uncompressed RGB image of `MOST_PIXELS`.
MOST_BYTES = 3 * MOST_PIXELS

# Images with at most this many pixels are decoded however small the file is.
_ALWAYS_ALLOWED_PIXELS = 1 << 24
# A JPEG has at least one bit per 8 x 8 pixels, unless arithmetically coded. In
# other formats, only blank images exceed this number of pixels per byte.
_JPEG_PIXELS_PER_BYTE, _PIXELS_PER_BYTE = 512, 4096
# TIFF tags. Even small TIFFs may have a tile of 256 px, larger than the image.
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class RefusedError(ValueError):
  """An image file that is rejected.

  The message continues a sentence that starts with "it".
  """


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
  """Opens an image file whose content is in one of `FORMATS`.

  Other formats are rare in data sets, and some of them run programs (EPS).
  Pillow's warnings about transparent palettes or odd EXIF are suppressed while
  the image is open.

  Args:
    data: the file, or enough of it to contain the header.

  Yields:
    The image, not loaded.

  Raises:
    RefusedError: the format is not supported, or the image claims more pixels
      than a file of this size can hold. On damaged files, almost any other
      exception can be raised, here and where the image is used.
  """
  from PIL import Image, UnidentifiedImageError

  with _quiet:
    try:
      file = Image.open(io.BytesIO(data), formats=FORMATS)
    # Pillow raises KeyError for formats it was built without.
    except (UnidentifiedImageError, KeyError) as error:
      kinds = ", ".join(FORMATS)
      raise RefusedError(
        f"it does not decode (it is not a valid file of type {kinds})"
      ) from error
    with file:
      _check_pixels(file.height, file.width, len(data), _PIXELS_PER_BYTE)
      if file.format == "TIFF":
        _check_tiles(file)
      yield file


def is_start(data: bytes) -> bool:
  """Returns whether these first bytes may start a file of one of `FORMATS`."""
  from PIL import Image

  Image.init()
  start = data.ljust(64, b"\0")
  known = [Image.OPEN[name][1] for name in FORMATS if name in Image.OPEN]
  return any(accepts(start) is True for accepts in known)


def check_jpeg(height: int, width: int, size: int) -> None:
  """Rejects a JPEG of `size` bytes that claims too many pixels for its size.

  Raises:
    RefusedError: the JPEG claims too many pixels.
  """
  _check_pixels(height, width, size, _JPEG_PIXELS_PER_BYTE)


def _check_pixels(height: int, width: int, size: int, per_byte: int) -> None:
  most = max(per_byte * size, _ALWAYS_ALLOWED_PIXELS)
  if height * width > min(most, MOST_PIXELS):
    raise RefusedError(f"it claims {height} x {width} pixels in {size} bytes")


def _check_tiles(image: Any) -> None:
  """Rejects a TIFF whose tiles are much larger than the image itself."""
  width, length = (
    int(np.max(image.tag_v2.get(tag, 0))) for tag in (_TILE_WIDTH, _TILE_LENGTH)
  )
  pixels = image.size[0] * image.size[1]
  if width * length > max(_ALWAYS_ALLOWED_PIXELS, 4 * pixels):
    raise RefusedError(f"it claims tiles of {length} x {width} pixels")


class _Quiet:
  """Suppresses Pillow's warnings while any thread is inside.

  `warnings.catch_warnings` is not thread-safe. Each thread restores the filters
  it found, which may be those of another thread, and could suppress all
  warnings of the program for good.
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
