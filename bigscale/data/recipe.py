"""Options of a build, and the conversion of a record."""

import collections
import dataclasses
import hashlib
import logging
import zlib
from typing import Literal, NamedTuple

import numpy as np

from bigscale.data import (
  hashing,
  images,
  ingest,
  orientation,
  records,
  transforms,
)
from bigscale.data.manifest import DataError, Encoding, Schema
from bigscale.data.shapes import survey
from bigscale.data.sources import BadRecordError, Source
from bigscale.spec import MOST_PADDING

Crop = Literal["center", "random", "none"]
Dedup = Literal["none", "exact"]

RESIZE = (
  "mean of blocks to shrink by a whole factor, Pillow BOX to shrink otherwise, "
  "LANCZOS to grow"
)

_log = logging.getLogger(__name__)

_CROP = 0x43524F50
_CHOICES = {
  "crop": ("center", "random", "none"),
  "encoding": ("raw", "png", "jpeg"),
  "dedup": ("none", "exact"),
  "channels": (1, 3),
}
# Options that do not change the output.
_NOT_IN_FINGERPRINT = ("workers", "max_bad_fraction")
_JPEG_START, _PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildOptions:
  """Options of a build.

  Attributes:
    name: name of the data set.
    source: origin of the images, for readers.
    licence: license of the images, as an SPDX identifier if there is one.
    resolution: side of the images in pixels; 0 keeps the size of the images,
      which must be the same for all.
    channels: 1 (RGB becomes ITU-R 601 luma) or 3 (gray is repeated).
    crop: how to make images square: `center`; `random` (by a hash of the
      pixels, so equal images are cropped equally); or `none`, which changes the
      aspect ratio.
    padding: black pixels added on each side of a cropped image before it is
      resized. Images that already have the resolution are not padded. With
      resolution 0, images are not changed, but the manifest records the
      padding for training. None uses the padding of the inputs.
    encoding: `raw`, `png` or `jpeg`. PNG or JPEG files that already have the
      requested form are copied byte for byte, unless EXIF rotates them.
    quality: quality of JPEGs encoded by the build, 1 to 100.
    multilabel: whether records may have several labels.
    records_per_shard: maximum number of records per shard.
    group_size: records per group; raw groups are compressed by zstd. A read
      unpacks the whole group. 0 stores single uncompressed records, which are
      fastest to read.
    shuffle: whether records are assigned to shards in an order hashed from
      `seed`.
    dedup: `exact` keeps the first of the images that have the same pixels
      after fitting. An image in both splits stays in the held-out split.
    seed: seed of the order and of random crops.
    workers: number of processes.
    max_bad_fraction: largest fraction of unusable records; above it, the build
      fails.
  """

  name: str
  source: str = "not stated"
  licence: str = "not stated"
  resolution: int = 0
  channels: int = 3
  crop: Crop = "center"
  padding: int | None = None
  encoding: Encoding = "jpeg"
  quality: int = 95
  multilabel: bool = False
  records_per_shard: int = 10_000
  group_size: int = 0
  shuffle: bool = True
  dedup: Dedup = "none"
  seed: int = 0
  workers: int = 1
  max_bad_fraction: float = 0.001

  def __post_init__(self) -> None:
    for name, choices in _CHOICES.items():
      value = getattr(self, name)
      if value not in choices:
        allowed = ", ".join(str(choice) for choice in choices)
        raise DataError(f"{name}={value!r} is not one of {allowed}")
    if not self.name:
      raise DataError("name='' must not be empty; name the data set")
    ranges = {
      "resolution": (0, 16384),
      "padding": (0, MOST_PADDING),
      "quality": (1, 100),
      "records_per_shard": (1, 10_000_000),
      "group_size": (0, 4096),
      "workers": (1, 1024),
      "max_bad_fraction": (0, 1),
    }
    for name, (low, high) in ranges.items():
      value = getattr(self, name)
      if value is not None and not low <= value <= high:
        raise DataError(f"{name}={value} must lie in [{low}, {high}]")

  @property
  def compression(self) -> str:
    """Options of the ArrayRecord writer."""
    if not self.group_size:
      return ingest.FASTEST
    packed = "zstd" if self.encoding == "raw" else "uncompressed"
    return f"group_size:{self.group_size},{packed}"

  @property
  def fingerprint(self) -> dict[str, object]:
    """Options that determine the bytes of the data set."""
    values = dataclasses.asdict(self)
    return {k: v for k, v in values.items() if k not in _NOT_IN_FINGERPRINT}


class Reject(Exception):  # noqa: N818 - an expected result, not an error
  """A record that is left out.

  Attributes:
    reason: the reason; continues a sentence that starts with "it".
    where: file of the record, if known.
  """

  def __init__(self, reason: str, where: str = "") -> None:
    super().__init__(reason)
    self.reason = reason
    self.where = where


class Fitted(NamedTuple):
  """A converted record.

  Attributes:
    image: [H, W, C] uint8.
    data: the original file if it is kept unchanged, else None.
    labels: labels in [0, num_classes); () in an unlabeled source.
  """

  image: np.ndarray
  data: bytes | None
  labels: tuple[int, ...]


def load(
  source: Source, index: int, options: BuildOptions, schema: Schema | None
) -> Fitted:
  """Reads and converts a record.

  Args:
    source: source to read.
    index: index of the record.
    options: options of the build.
    schema: schema of the data set, or None if it is not known yet.

  Raises:
    Reject: the record cannot be used.
    DataError: the options conflict with the source.
  """
  data, image, labels = _read(source, index)
  _check_labels(labels, source.num_classes, options)
  _check_padding(image, options)
  fitted = fit(image, options)
  if schema is not None and fitted.shape != tuple(schema.image_shape):
    height, width, _ = schema.image_shape
    raise Reject(
      f"it is {fitted.shape[0]} x {fitted.shape[1]} pixels, not {height} x "
      f"{width} like most images; set a resolution"
    )
  unchanged = fitted is image and _is_plain(data, image, options.encoding)
  return Fitted(fitted, data if unchanged else None, labels)


def _read(
  source: Source, index: int
) -> tuple[bytes, np.ndarray, tuple[int, ...]]:
  try:
    if not hasattr(source, "read_bytes"):
      return b"", *source.read(index)
    data, labels = source.read_bytes(index)
    try:
      return data, images.decode(data), labels
    except ValueError:
      # `read` raises an error that names the file.
      return data, *source.read(index)
  except BadRecordError as error:
    raise Reject(error.reason, getattr(error, "where", "")) from error


def _check_labels(
  labels: tuple[int, ...], num_classes: int, options: BuildOptions
) -> None:
  if not num_classes:
    return
  if not labels:
    raise Reject("it has no label")
  if min(labels) < 0 or max(labels) >= num_classes:
    raise Reject(f"its labels {labels} are not all in [0, {num_classes})")
  if len(labels) > 1 and not options.multilabel:
    raise DataError(
      f"a record has labels {labels}, but multilabel=False allows one; set "
      "multilabel=True, or use a source with one label per record"
    )


def _check_padding(image_hwc: np.ndarray, options: BuildOptions) -> None:
  """Raises `DataError` if padding would have no effect on an image."""
  side, (height, width) = options.resolution, image_hwc.shape[:2]
  cropped = min(height, width) if options.crop != "none" else width
  fits = side == cropped and (options.crop != "none" or height == width)
  if options.padding and fits:
    raise DataError(
      f"padding={options.padding} has no effect on an image that already has "
      f"resolution={side}; set resolution=0, which keeps images unchanged and "
      "records the padding, or another resolution, or padding=0"
    )


def _is_plain(data: bytes, image: np.ndarray, encoding: Encoding) -> bool:
  """Returns whether a file has the most common form of its encoding."""
  channels = image.shape[-1]
  if data and orientation.of_file(data) != orientation.UPRIGHT:
    # Built images are upright, so that readers need not apply EXIF.
    return False
  if encoding == "jpeg" and data.startswith(_JPEG_START):
    import simplejpeg

    try:
      space = simplejpeg.decode_jpeg_header(data, strict=True)[2]
    except ValueError:  # Only Pillow reads it.
      return False
    return space in (("Gray",) if channels == 1 else ("YCbCr", "RGB"))
  if encoding == "png" and data.startswith(_PNG_START):
    # 8 bits; gray or RGB; no transparency.
    kind = (8, 0 if channels == 1 else 2)
    return (data[24], data[25]) == kind and b"tRNS" not in data
  return False


def fit(image_hwc: np.ndarray, options: BuildOptions) -> np.ndarray:
  """Crops, converts and resizes one image.

  Args:
    image_hwc: [H, W, C] uint8, C = 1 or 3.
    options: build options; reads `resolution`, `channels`, `crop`, `padding`
      and `seed`.

  Returns:
    [resolution, resolution, channels] uint8, or [H, W, channels] if the
    resolution is 0; the input itself if nothing changes.
  """
  side, found = options.resolution, image_hwc.shape[-1]
  shape = (side, side) if side else image_hwc.shape[:2]
  if image_hwc.shape == (*shape, options.channels):
    return image_hwc
  if side and options.crop != "none":
    image_hwc = _square(image_hwc, options)
  if found == 3 and options.channels == 1:
    image_hwc = transforms.luma(image_hwc)
  if image_hwc.shape[:2] != shape:
    image_hwc = transforms.pad(image_hwc, options.padding or 0)
    image_hwc = resize(image_hwc, side, side)
  if found == 1 and options.channels == 3:
    image_hwc = np.repeat(image_hwc, 3, axis=-1)
  return image_hwc


def _square(image_hwc: np.ndarray, options: BuildOptions) -> np.ndarray:
  height, width = image_hwc.shape[:2]
  side = min(height, width)
  room = max(height, width) - side
  start = room // 2
  if options.crop == "random" and room:
    content = zlib.crc32(np.ascontiguousarray(image_hwc))
    bits = hashing.random_bits(options.seed, _CROP, np.array(content))
    start = int(bits) % (room + 1)
  if height > width:
    return image_hwc[start : start + side]
  return image_hwc[:, start : start + side]


def resize(image_hwc: np.ndarray, height: int, width: int) -> np.ndarray:
  """Resizes [H, W, C] uint8, by area to shrink and by Lanczos to enlarge.

  Squares are resized to squares exactly as in training (`transforms.resize`).
  """
  if height == width and image_hwc.shape[0] == image_hwc.shape[1]:
    return transforms.resize(image_hwc, height)
  from PIL import Image

  pixels = image_hwc[..., 0] if image_hwc.shape[-1] == 1 else image_hwc
  picture = Image.fromarray(np.ascontiguousarray(pixels))

  def kernel(before: int, after: int) -> Image.Resampling:
    return Image.Resampling["BOX" if after <= before else "LANCZOS"]

  across = kernel(picture.width, width)
  down = kernel(picture.height, height)
  if across != down:
    picture = picture.resize((width, picture.height), across)
  picture = picture.resize((width, height), down)
  return np.asarray(picture).reshape(height, width, image_hwc.shape[-1])


def encode(fitted: Fitted, options: BuildOptions, schema: Schema) -> bytes:
  """Encodes a record of the data set."""
  content: np.ndarray | bytes = fitted.image
  if fitted.data is not None:
    content = fitted.data
  elif options.encoding != "raw":
    content = images.encode(fitted.image, options.encoding, options.quality)
  return records.encode(content, fitted.labels or (), schema)


def digest(image_hwc: np.ndarray) -> int:
  """Returns 64 bits of the SHA-256 of an image's pixels and shape.

  In a set of 300 million images, the probability that two different images
  share a digest is 1/400.
  """
  sha = hashlib.sha256(repr(image_hwc.shape).encode())
  sha.update(np.ascontiguousarray(image_hwc))
  return int.from_bytes(sha.digest()[:8], "little")


def common_shape(source: Source, options: BuildOptions) -> tuple[int, int, int]:
  """Returns the most common shape of a source's images, by their headers.

  Raises:
    DataError: no header can be read.
  """
  found = survey(source)
  votes: collections.Counter[tuple[int, int]] = collections.Counter()
  for (height, width, _), count in found.counts.items():
    votes[(height, width)] += count
  if not votes:
    raise DataError(
      f"none of {found.looked_at} headers of {source.identity} can be read, so "
      "the size for resolution=0 is unknown; set resolution, or check the "
      "images"
    )
  if len(votes) > 1:
    _log.warning(
      "images of %s differ in size, and all but the most common size are "
      "rejected: %s; set a resolution to resize all images to one size",
      source.identity,
      found.describe(source),
    )
  ((height, width), _) = votes.most_common(1)[0]
  return height, width, options.channels
