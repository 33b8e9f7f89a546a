"""Encoded images, of whatever kind is met, to arrays of one kind and back."""

import io
from typing import Any

import numpy as np
import simplejpeg

from bigscale.data import orientation, pillow
from bigscale.data.pillow import RefusedError

_JPEG = b"\xff\xd8\xff"
# What Pillow turns into gray or RGB without loss, but for its alpha.
_GRAY = ("1", "L", "LA", "La")
_COLOUR = ("RGB", "RGBA", "RGBa", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")
_WIDE_GRAY = ("I;16", "I;16B", "I;16L", "I;16N")
# TIFF tags, and where in a PNG the bits of a channel stand.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
_PNG_BITS = 24
_NO_RANGE = (
  "nothing says which value is white; save it with 8 or 16 unsigned bits"
)

# Most headers end before this; a long colour profile may come first.
FIRST_BYTES = 1 << 16


def decode(data: bytes) -> np.ndarray:
  """Decodes a JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF, JPEG 2000 or PPM.

  A JPEG has the pixels that Pillow gives, also where libjpeg warns of it; one
  that is cut short is refused. Gray stays gray. CMYK and palettes become RGB,
  what is transparent lies on white. Of an animation, or of several pages, the
  first is taken. Images are turned as EXIF says (`orientation`). Channels of 12
  and 16 bits keep their upper 8. Wider, signed and floating-point ones are
  refused: nothing says which value is white.

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
  """Decodes as Pillow does, four times as fast where nothing is wrong."""
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
    # It ends at the first warning: of bytes too many, of headers that some
    # cameras write wrong. What is broken Pillow refuses, too.
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
  # Of damaged bytes Pillow's decoders raise nearly everything.
  except Exception as error:
    raise ValueError(f"it does not decode ({error})") from error


def _check_samples(image: Any, data: bytes) -> int:
  """Returns the bits of a channel; refuses those of an unknown range."""
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
  """Returns 1 or 3, the channels that `decode` makes of a mode of Pillow's.

  Raises:
    ValueError: it makes none.
  """
  if mode in _GRAY or mode in _WIDE_GRAY:
    return 1
  if mode in _COLOUR:
    return 3
  raise RefusedError(f"its pixels are of kind {mode}: {_NO_RANGE}")


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
  """The upper 8 of more bits of gray, [H, W, 1] uint8."""
  wide = np.asarray(image).astype(np.uint16)
  # Pillow unpacks 12 bits to values up to 4095.
  bits = bits if bits in range(9, 16) else 16
  if 0 < wide.max(initial=0) < 256 and bits == 16:
    raise _all_in_lower_bits(bits)
  pixels = (wide >> (bits - 8)).astype(np.uint8)
  if image.format == "TIFF" and (
    image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
  ):
    pixels = 255 - pixels  # Pillow does this for 8 bits alone
  transparent = image.info.get("transparency")
  if transparent is not None:
    pixels = np.where(wide == transparent, np.uint8(255), pixels)
  return pixels[..., None]


def _all_in_lower_bits(bits: int) -> RefusedError:
  return RefusedError(
    f"it has {bits} bits a channel, but no value above 255, so that its upper "
    "8 bits are black; save it with 8 bits"
  )


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


def shape_of(data: bytes) -> tuple[int, int, int]:
  """Returns height, width and channels (1 or 3), as `decode` gives them.

  Pixels are not decoded: the file may still prove to be cut short.

  Args:
    data: the file, or so much of it that the header is whole.

  Raises:
    ValueError: the bytes are no image, or the header is not all there.
  """
  try:
    with pillow.opened(data) as file:
      width, height = orientation.size_of(file)
      channels = channels_of(file.mode)
  except Exception as error:  # Pillow's parsers have many for damaged headers
    raise ValueError(f"its header cannot be read ({error})") from error
  return height, width, channels
