"""One image and its label, to bytes and back (layout: `manifest.Schema`)."""

import io
import struct

import numpy as np

from bigscale.data.manifest import DataError, Schema

_LABEL = struct.Struct("<i")


def encode(image: np.ndarray, label: int, schema: Schema) -> bytes:
  """Makes a record.

  Args:
    image: [H, W, C] uint8 of the schema's shape.
    label: in [0, 2^31).
    schema: layout of the record.

  Raises:
    DataError: the image has another shape or type than the schema.
  """
  if image.shape != tuple(schema.image_shape) or image.dtype != np.uint8:
    raise DataError(
      f"an image is {image.dtype} {image.shape}, but the schema says uint8 "
      f"{tuple(schema.image_shape)}; convert or resize it before writing"
    )
  if schema.encoding == "raw":
    return _LABEL.pack(label) + image.tobytes()
  from PIL import Image

  pixels = image[..., 0] if image.shape[-1] == 1 else image
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG", optimize=True)
  return _LABEL.pack(label) + file.getvalue()


def decode_into(record: bytes, schema: Schema, out: np.ndarray) -> int:
  """Reads a record's image into `out` and returns its label.

  Args:
    record: what `encode` gave.
    schema: layout of the record.
    out: [H, W, C] uint8, overwritten.

  Raises:
    ValueError: the bytes are not such a record.
  """
  if len(record) < _LABEL.size:
    raise ValueError(f"it has {len(record)} bytes, too few for a label")
  (label,) = _LABEL.unpack_from(record)
  if schema.encoding == "raw":
    pixels = np.frombuffer(record, np.uint8, offset=_LABEL.size)
    if pixels.size != out.size:
      raise ValueError(f"it has {pixels.size} pixels, not {out.size}")
    out[...] = pixels.reshape(out.shape)
    return label
  out[...] = _decode_png(record[_LABEL.size :], out.shape)
  return label


def _decode_png(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
  from PIL import Image

  try:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
      pixels = np.asarray(image)
  except (OSError, SyntaxError) as error:  # both are Pillow's broken file
    raise ValueError(f"it does not decode ({error})") from error
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  if pixels.shape != shape or pixels.dtype != np.uint8:
    raise ValueError(
      f"it holds {pixels.dtype} {pixels.shape}, not uint8 {shape}"
    )
  return pixels
