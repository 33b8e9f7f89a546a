"""One image and its labels, to bytes and back (layout: `manifest.Schema`)."""

import struct

import numpy as np

from bigscale.data import images
from bigscale.data.manifest import DataError, Schema

_LABEL = struct.Struct("<i")
_COUNT = struct.Struct("<I")


def encode(
  image: np.ndarray | bytes, labels: tuple[int, ...], schema: Schema
) -> bytes:
  """Makes a record.

  Args:
    image: [H, W, C] uint8 of the schema's shape; or, encoded as the schema
      says, bytes that are kept as they are.
    labels: in [0, 2^31): as many as the schema allows.
    schema: layout of the record.

  Raises:
    DataError: the image has another shape or type than the schema, or there
      are too few or too many labels.
  """
  head = _encode_labels(labels, schema)
  if isinstance(image, bytes):
    return head + image
  if image.shape != tuple(schema.image_shape) or image.dtype != np.uint8:
    raise DataError(
      f"an image is {image.dtype} {image.shape}, but the schema says uint8 "
      f"{tuple(schema.image_shape)}; convert or resize it before writing"
    )
  if schema.encoding == "raw":
    return head + image.tobytes()
  return head + images.encode(image, schema.encoding)


def _encode_labels(labels: tuple[int, ...], schema: Schema) -> bytes:
  if schema.multilabel:
    if not labels:
      raise DataError("an image has no label; give it one, or leave it out")
    return _COUNT.pack(len(labels)) + struct.pack(f"<{len(labels)}i", *labels)
  if len(labels) > 1:
    raise DataError(
      f"an image has labels {labels}, but the schema says one; set "
      "multilabel, or choose one"
    )
  return _LABEL.pack(labels[0] if labels else 0)


def decode(record: bytes, schema: Schema) -> tuple[np.ndarray, tuple[int, ...]]:
  """Reads a record's image [H, W, C] uint8 and labels.

  A raw image is a view of the record, not to be written to.

  Raises:
    ValueError: the bytes are not such a record.
  """
  labels, start = decode_labels(record, schema)
  shape = tuple(schema.image_shape)
  if schema.encoding == "raw":
    pixels = np.frombuffer(record, np.uint8, offset=start)
    if pixels.size != shape[0] * shape[1] * shape[2]:
      raise ValueError(
        f"it has {pixels.size} bytes of pixels, which is not {shape}"
      )
    return pixels.reshape(shape), labels
  image = images.decode(record[start:])
  if image.shape != shape:
    raise ValueError(f"it holds an image of {image.shape}, not {shape}")
  return image, labels


def decode_labels(record: bytes, schema: Schema) -> tuple[tuple[int, ...], int]:
  """A record's labels, and where its image starts.

  Raises:
    ValueError: the bytes are not such a record.
  """
  if len(record) < _LABEL.size:
    raise ValueError(f"it has {len(record)} bytes, too few for a label")
  if not schema.multilabel:
    return _LABEL.unpack_from(record), _LABEL.size
  (count,) = _COUNT.unpack_from(record)
  end = _COUNT.size + _LABEL.size * count
  if count == 0 or len(record) < end:
    raise ValueError(f"it claims {count} labels in {len(record)} bytes")
  return struct.unpack_from(f"<{count}i", record, _COUNT.size), end
