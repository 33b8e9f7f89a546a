"""Encoded images, of whatever kind is met, to arrays of one kind and back."""

import io
import warnings
from typing import Any

import numpy as np
import simplejpeg

_JPEG = b"\xff\xd8\xff"
# What Pillow turns into gray or RGB without loss, but for its alpha.
_GRAY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_WIDE_GRAY = ("I;16", "I;16B", "I;16L", "I")


def decode(data: bytes) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF or whatever else Pillow reads.

  Gray stays gray. CMYK and palettes become RGB, what is transparent lies on
  white, 16 bits keep their upper 8, an animation is its first frame. Turns
  that a camera has only noted (EXIF) are not made.

  Returns:
    [H, W, C] uint8, C = 1 or 3.

  Raises:
    ValueError: the bytes are no such image, or not all of one.
  """
  if not data:
    raise ValueError("it has 0 bytes")
  if data.startswith(_JPEG):
    return _decode_jpeg(data)
  return _decode_with_pillow(data)


def _decode_jpeg(data: bytes) -> np.ndarray:
  # Four times as fast as Pillow, and the same pixels.
  try:
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=True)
    if colorspace not in ("Gray", "YCbCr", "RGB"):
      return _decode_with_pillow(data)
    target = "GRAY" if colorspace == "Gray" else "RGB"
    return simplejpeg.decode_jpeg(
      data, target, fastdct=False, fastupsample=False, strict=True
    )
  except ValueError as error:
    raise ValueError(f"it does not decode ({error})") from error


def _decode_with_pillow(data: bytes) -> np.ndarray:
  from PIL import Image

  try:
    with warnings.catch_warnings():
      # Of pixels beyond a limit, of palettes with transparency in bytes.
      warnings.simplefilter("ignore")
      with Image.open(io.BytesIO(data)) as file:
        file.load()
        return _to_uint8(file)
  except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
    raise ValueError(f"it does not decode ({e})") from e


def channels_of(mode: str) -> int:
  """Returns 1 or 3, the channels that `decode` makes of a mode of Pillow's.

  Raises:
    ValueError: it makes none.
  """
  if mode in _GRAY or mode in _WIDE_GRAY:
    return 1
  if mode in _COLOUR:
    return 3
  raise ValueError(f"its pixels are of kind {mode}, not 8 or 16 bits")


def _to_uint8(image: Any) -> np.ndarray:
  from PIL import Image

  if image.mode in _WIDE_GRAY:
    wide = np.asarray(image).astype(np.int64)
    return (np.clip(wide, 0, 65535) >> 8).astype(np.uint8)[..., None]
  gray = channels_of(image.mode) == 1
  if image.has_transparency_data:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    image = white
  pixels = np.asarray(image.convert("L" if gray else "RGB"))
  return pixels[..., None] if gray else pixels


def encode(image: np.ndarray, encoding: str, quality: int = 95) -> bytes:
  """Encodes [H, W, C] uint8, C = 1 or 3.

  Args:
    image: to encode.
    encoding: `png` or `jpeg`.
    quality: of a JPEG, 1 to 100; colour keeps its resolution (4:4:4).
  """
  if encoding == "jpeg":
    gray = image.shape[-1] == 1
    return simplejpeg.encode_jpeg(
      np.ascontiguousarray(image),
      quality=quality,
      colorspace="GRAY" if gray else "RGB",
      colorsubsampling="Gray" if gray else "444",
      fastdct=False,
    )
  from PIL import Image

  file = io.BytesIO()
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(pixels).save(file, "PNG", optimize=True)
  return file.getvalue()
