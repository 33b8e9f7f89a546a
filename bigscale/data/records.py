"""Encodes and decodes records: an image and its labels (`manifest.Schema`)."""

import struct

import numpy as np

from bigscale.data import images
from bigscale.data.manifest import DataError, Schema

_LABEL = struct.Struct("<i")
_COUNT = struct.Struct("<I")


def encode(
  image: np.ndarray | bytes, labels: tuple[int, ...], schema: Schema
) -> bytes:
  """Encodes a record.

  Args:
    image: [H, W, C] uint8 of the schema's shape, or bytes in the schema's
      encoding, which are copied.
    labels: integers in [0, 2^31), as many as the schema allows.
    schema: layout of the record.

  Raises:
    DataError: the image's shape or type differs from the schema, or the number
      of labels is wrong.
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
      f"an image has labels {labels}, but the schema allows one; set "
      "multilabel, or choose one"
    )
  return _LABEL.pack(labels[0] if labels else 0)


def decode(record: bytes, schema: Schema) -> tuple[np.ndarray, tuple[int, ...]]:
  """Decodes a record's image [H, W, C] uint8 and labels.

  A raw image is a read-only view of the record.

  Raises:
    ValueError: the bytes do not fit the schema.
  """
  labels, start = decode_labels(record, schema)
  shape = tuple(schema.image_shape)
  if schema.encoding == "raw":
    pixels = np.frombuffer(record, np.uint8, offset=start)
    if pixels.size != shape[0] * shape[1] * shape[2]:
      raise ValueError(
        f"it has {pixels.size} bytes of pixels, which does not fit {shape}"
      )
    return pixels.reshape(shape), labels
  image = images.decode(record[start:])
  if image.shape != shape:
    raise ValueError(
      f"it contains an image of shape {image.shape}, not {shape}"
    )
  return image, labels


def decode_labels(record: bytes, schema: Schema) -> tuple[tuple[int, ...], int]:
  """Decodes a record's labels, and returns the offset of its image.

  Raises:
    ValueError: the bytes do not fit the schema.
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
