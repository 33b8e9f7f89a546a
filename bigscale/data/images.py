"""Decodes images of many formats to uint8 arrays, and encodes arrays."""

import io
from typing import Any

import numpy as np
import simplejpeg

from bigscale.data import orientation, pillow
from bigscale.data.pillow import RefusedError

_JPEG = b"\xff\xd8\xff"
# Pillow modes that convert to gray or RGB without loss, except for alpha.
_GRAY = ("1", "L", "LA", "La")
_COLOR = ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_WIDE_GRAY = ("I;16", "I;16B", "I;16L", "I;16N")
# TIFF tags, and the offset of the bit depth in a PNG file.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_PNG_BITS = 24
_NO_RANGE = (
  "nothing says which value is white; save it with 8 or 16 unsigned bits"
)

# Most headers are shorter than this. A long color profile can precede the size.
FIRST_BYTES = 1 << 16


def decode(data: bytes) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or PPM.

  JPEGs decode to the same pixels as in Pillow, even if libjpeg warns about
  them. Truncated JPEGs are rejected. Gray images stay gray, CMYK and palettes
  become RGB, and transparent pixels are composited on white. Only the first
  frame or page is decoded. Images are rotated as EXIF says (`orientation`).
  Channels of 12 or 16 bits keep their upper 8 bits. Wider, signed and
  floating-point channels are rejected, because their white value is unknown.

  Returns:
    [H, W, C] uint8, C = 1 or 3.

  Raises:
    ValueError: the bytes are not a complete image in one of these formats.
  """
  if not data:
    raise ValueError("it has 0 bytes")
  if data.startswith(_JPEG):
    return _decode_jpeg(data)
  return _decode_with_pillow(data)


def _decode_jpeg(data: bytes) -> np.ndarray:
  """Decodes a JPEG as Pillow does, four times as fast for valid files."""
  try:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(
      data, strict=True
    )
    pillow.check_jpeg(height, width, len(data))
    if colorspace not in ("Gray", "YCbCr", "RGB"):
      return _decode_with_pillow(data)
    target = "GRAY" if colorspace == "Gray" else "RGB"
    stored = simplejpeg.decode_jpeg(
      data, target, fastdct=False, fastupsample=False, strict=True
    )
  except RefusedError:
    raise
  except (ValueError, MemoryError):
    # In strict mode simplejpeg fails at the first warning, for example about
    # extra bytes or the malformed headers of some cameras. Pillow accepts
    # these, and still rejects broken files.
    return _decode_with_pillow(data)
  return orientation.apply(stored, orientation.of_jpeg(data))


def _decode_with_pillow(data: bytes) -> np.ndarray:
  try:
    with pillow.opened(data) as file:
      if data.startswith(_JPEG):
        pillow.check_jpeg(file.height, file.width, len(data))
      bits = _check_samples(file, data)
      file.load()
      return orientation.apply(
        _to_uint8(file, bits), orientation.of_image(file)
      )
  except RefusedError:
    raise
  except MemoryError as error:
    raise ValueError("it does not decode (it takes too much memory)") from error
  # On damaged bytes, Pillow's decoders raise almost any exception.
  except Exception as error:
    raise ValueError(f"it does not decode ({error})") from error


def _check_samples(image: Any, data: bytes) -> int:
  """Returns the bits per channel; rejects images of an unknown range."""
  bits, sample_format = 8, _UNSIGNED
  if image.format == "TIFF":
    bits = max(np.atleast_1d(image.tag_v2.get(_BITS, 1)).tolist())
    formats = np.atleast_1d(image.tag_v2.get(_SAMPLE_FORMAT, _UNSIGNED))
    sample_format = max(formats.tolist())
  elif image.format == "PNG":
    bits = data[_PNG_BITS]
  channels_of(image.mode)
  if sample_format != _UNSIGNED:
    raise RefusedError(f"its pixels are signed or floating: {_NO_RANGE}")
  return bits


def channels_of(mode: str) -> int:
  """Returns the channels, 1 or 3, that `decode` makes of a Pillow mode.

  Raises:
    ValueError: `decode` rejects the mode.
  """
  if mode in _GRAY or mode in _WIDE_GRAY:
    return 1
  if mode in _COLOR:
    return 3
  raise RefusedError(f"its pixels have mode {mode}: {_NO_RANGE}")


def _to_uint8(image: Any, bits: int) -> np.ndarray:
  from PIL import Image

  if image.mode in _WIDE_GRAY:
    return _upper_bits(image, bits)
  gray = channels_of(image.mode) == 1
  if image.has_transparency_data:
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    image = white
  pixels = np.asarray(image.convert("L" if gray else "RGB"))
  if bits > 8 and not pixels.any():
    raise _all_in_lower_bits(bits)
  return pixels[..., None] if gray else pixels


def _upper_bits(image: Any, bits: int) -> np.ndarray:
  """Returns the upper 8 bits of a gray image, [H, W, 1] uint8."""
  wide = np.asarray(image).astype(np.uint16)
  # Pillow unpacks 12-bit samples to values up to 4095.
  bits = bits if bits in range(9, 16) else 16
  if 0 < wide.max(initial=0) < 256 and bits == 16:
    raise _all_in_lower_bits(bits)
  pixels = (wide >> (bits - 8)).astype(np.uint8)
  if image.format == "TIFF" and (
    image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
  ):
    pixels = 255 - pixels  # Pillow inverts 8-bit images only.
  transparent = image.info.get("transparency")
  if transparent is not None:
    pixels = np.where(wide == transparent, np.uint8(255), pixels)
  return pixels[..., None]


def _all_in_lower_bits(bits: int) -> RefusedError:
  return RefusedError(
    f"it has {bits} bits per channel, but no value above 255, so its upper 8 "
    "bits are black; save it with 8 bits"
  )


def encode(image: np.ndarray, encoding: str, quality: int = 95) -> bytes:
  """Encodes an image [H, W, C] uint8, C = 1 or 3.

  Args:
    image: image to encode.
    encoding: `png` or `jpeg`.
    quality: JPEG quality, 1 to 100. Chroma is not subsampled (4:4:4).
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


def shape_of(data: bytes) -> tuple[int, int, int]:
  """Returns the height, width and channels (1 or 3) of a decoded image.

  Only the header is read, so a truncated file may go unnoticed.

  Args:
    data: the file, or enough of it to contain the header.

  Raises:
    ValueError: the bytes are not an image, or the header is incomplete.
  """
  try:
    with pillow.opened(data) as file:
      width, height = orientation.size_of(file)
      channels = channels_of(file.mode)
  except Exception as error:  # Pillow's parsers raise many types.
    raise ValueError(f"its header cannot be read ({error})") from error
  return height, width, channels
