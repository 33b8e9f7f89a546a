"""Reads the EXIF orientation of an image file, and rotates images.

Cameras store pixels in sensor order, and record in EXIF how the camera was
held. As in Pillow's `ImageOps.exif_transpose`, the EXIF tag Orientation is
read, and if it is missing, `tiff:Orientation` in XMP.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from bigscale.data import pillow

UPRIGHT = 1

_TAG = 0x0112
_JPEG = b"\xff\xd8\xff"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Files without any of these byte strings have no orientation.
_SIGNS = (b"eXIf", b"EXIF", b"Exif", b"exif", b"tiff:Orientation", b"\x12\x01")
_START_OF_SCAN, _END, _APP1, _FILL = 0xDA, 0xD9, 0xE1, 0xFF
# Transpositions that make the stored pixels upright (Exif 2.32, table 6).
_TURNS = {
  2: "FLIP_LEFT_RIGHT",
  3: "ROTATE_180",
  4: "FLIP_TOP_BOTTOM",
  5: "TRANSPOSE",
  6: "ROTATE_270",
  7: "TRANSVERSE",
  8: "ROTATE_90",
}


def of_jpeg(data: bytes) -> int:
  """Returns the EXIF orientation of a JPEG, 1 to 8; 1 if it has none.

  It reads only the segments before the pixels, which takes microseconds.
  """
  from_xmp = UPRIGHT
  for segment in _app1_segments(data):
    if segment.startswith(_EXIF):
      found = _of_exif(segment[len(_EXIF) :])
      if found is not None:
        return _checked(found)
    elif segment.startswith(_XMP):
      match = _IN_XMP.search(segment)
      from_xmp = _checked(int(match[1])) if match else from_xmp
  return from_xmp


def _app1_segments(data: bytes) -> Iterator[bytes]:
  place, end = 2, len(data) - 4
  while place <= end and data[place] == _FILL:
    marker = data[place + 1]
    if marker == _FILL:
      place += 1
      continue
    if marker in (_START_OF_SCAN, _END):
      return
    after = place + 2 + (data[place + 2] << 8 | data[place + 3])
    if marker == _APP1:
      yield data[place + 4 : after]
    place = after


def _of_exif(exif: bytes) -> int | None:
  """Returns the orientation in the first EXIF directory, or None."""
  order = {b"II": "<", b"MM": ">"}.get(exif[:2])
  if order is None:
    return None
  try:
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
      tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
      if tag == _TAG:
        # SHORT in the standard; some writers use BYTE or LONG.
        letter = {1: "B", 3: "H", 4: "I"}.get(kind)
        if letter is None:
          return None
        return struct.unpack_from(f"{order}{letter}", exif, entry + 8)[0]
  except struct.error:  # Truncated EXIF is ignored.
    pass
  return None


def _checked(value: Any) -> int:
  return value if value in range(1, 9) else UPRIGHT


def of_image(image: Any) -> int:
  """Returns the orientation, 1 to 8, that an image still needs.

  Pillow already rotates TIFFs while loading them, so a loaded TIFF returns 1.

  Args:
    image: image opened by Pillow.
  """
  try:
    return _checked(image.getexif().get(_TAG, UPRIGHT))
  except (SyntaxError, ValueError, KeyError, TypeError, struct.error, OSError):
    return UPRIGHT  # Damaged EXIF is ignored.


def of_file(data: bytes) -> int:
  """Returns the orientation in an image file of any format, 1 to 8.

  Raises:
    ValueError: the bytes are not an image.
  """
  if data.startswith(_JPEG):
    return of_jpeg(data)
  if not any(sign in data for sign in _SIGNS):
    return UPRIGHT
  try:
    # Not loaded, because loading a TIFF clears its tag.
    with pillow.opened(data) as image:
      return of_image(image)
  except Exception as error:  # Pillow raises almost any exception.
    raise ValueError(f"it does not decode ({error})") from error


def apply(image_hwc: np.ndarray, orientation: int) -> np.ndarray:
  """Rotates or flips stored pixels [H, W, C] uint8 to make them upright.

  Args:
    image_hwc: stored pixels, C = 1 or 3.
    orientation: EXIF orientation, 1 to 8.

  Returns:
    [H, W, C], or [W, H, C] for 5 to 8; the input itself for 1.
  """
  if orientation == UPRIGHT:
    return image_hwc
  from PIL import Image

  pixels = image_hwc[..., 0] if image_hwc.shape[-1] == 1 else image_hwc
  turn = Image.Transpose[_TURNS[orientation]]
  turned = np.asarray(Image.fromarray(pixels).transpose(turn))
  return turned[..., None] if turned.ndim == 2 else turned


def size_of(image: Any) -> tuple[int, int]:
  """Returns the width and height of the upright image.

  Args:
    image: opened by Pillow but not loaded; only the header is needed.
  """
  # Pillow has already swapped the sides of a TIFF, but kept its tag.
  turned = image.format != "TIFF" and of_image(image) >= 5
  return image.size[::-1] if turned else image.size
