"""How an image file says it is to be turned, and the turn itself.

Cameras store pixels as the sensor lies, and note in EXIF how the camera was
held. The notes are read as Pillow's `ImageOps.exif_transpose` reads them: the
EXIF tag Orientation, and where there is none, `tiff:Orientation` in XMP.
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
# Other files that have none of these need not be opened by Pillow.
_SIGNS = (b"eXIf", b"EXIF", b"Exif", b"exif", b"tiff:Orientation", b"\x12\x01")
_START_OF_SCAN, _END, _APP1, _FILL = 0xDA, 0xD9, 0xE1, 0xFF
# What makes the stored pixels upright (Exif 2.32, table 6).
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
  """Returns the EXIF orientation of a JPEG, 1 to 8; 1 where it has none.

  It reads only what precedes the pixels, and takes a few microseconds.
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
  """Orientation in the first directory of EXIF; None where it has none."""
  order = {b"II": "<", b"MM": ">"}.get(exif[:2])
  if order is None:
    return None
  try:
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
      tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
      if tag == _TAG:
        # SHORT by the standard; some writers use BYTE or LONG.
        letter = {1: "B", 3: "H", 4: "I"}.get(kind)
        if letter is None:
          return None
        return struct.unpack_from(f"{order}{letter}", exif, entry + 8)[0]
  except struct.error:  # cut off: it says nothing
    pass
  return None


def _checked(value: Any) -> int:
  return value if value in range(1, 9) else UPRIGHT


def of_image(image: Any) -> int:
  """Returns the orientation of an image that Pillow has loaded, 1 to 8.

  Pillow turns a TIFF while it loads it, so that 1 is left of that.
  """
  try:
    return _checked(image.getexif().get(_TAG, UPRIGHT))
  except (SyntaxError, ValueError, KeyError, TypeError, struct.error, OSError):
    return UPRIGHT  # EXIF that is damaged says nothing


def of_file(data: bytes) -> int:
  """Returns the orientation in an image file of any kind, 1 to 8.

  Raises:
    ValueError: the bytes are no image.
  """
  if data.startswith(_JPEG):
    return of_jpeg(data)
  if not any(sign in data for sign in _SIGNS):
    return UPRIGHT
  try:
    # Not loaded: a TIFF still has its tag, as `decode` has turned it.
    with pillow.opened(data) as image:
      return of_image(image)
  except Exception as error:  # of damaged bytes Pillow raises everything
    raise ValueError(f"it does not decode ({error})") from error


def apply(image_hwc: np.ndarray, orientation: int) -> np.ndarray:
  """Turns stored pixels [H, W, C] uint8 as their orientation, 1 to 8, says.

  Returns:
    [H, W, C], or [W, H, C] for 5 to 8, C = 1 or 3; the input itself for 1.
  """
  if orientation == UPRIGHT:
    return image_hwc
  from PIL import Image

  pixels = image_hwc[..., 0] if image_hwc.shape[-1] == 1 else image_hwc
  turn = Image.Transpose[_TURNS[orientation]]
  turned = np.asarray(Image.fromarray(pixels).transpose(turn))
  return turned[..., None] if turned.ndim == 2 else turned


def size_of(image: Any) -> tuple[int, int]:
  """Returns the width and height of an image once it is turned.

  Args:
    image: opened by Pillow and not loaded: its header is enough.
  """
  # Pillow has swapped the sides of a TIFF, which keeps its tag.
  turned = image.format != "TIFF" and of_image(image) >= 5
  return image.size[::-1] if turned else image.size
