"""Reads, writes and checks `manifest.json` of a directory of shards.

The manifest states the number of records of every shard. A set of ten thousand
shards can therefore be opened without opening any of them.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import IO, Any, Literal

from bigscale import place
from bigscale.data.shown import shown
from bigscale.spec import MOST_PADDING, SpecError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1

Split = Literal["train", "heldout"]
Encoding = Literal["raw", "png", "jpeg"]

_ENCODINGS = ("raw", "png", "jpeg")
_SPLITS = ("train", "heldout")


class DataError(SpecError):
  """Unusable data; the message names the file or value, the rule and a fix."""

  def __init__(self, message: str) -> None:
    """Escapes line breaks and unprintable characters of the message."""
    super().__init__(shown(message))


class EmptySplitError(DataError):
  """A valid data set has no record in the requested split."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardFile:
  """One ArrayRecord file.

  Attributes:
    file: file name inside the directory.
    split: `train` or `heldout`.
    records: number of records.
    bytes: size of the file in bytes.
    sha256: SHA-256 digest of the file, hexadecimal.
  """

  file: str
  split: Split
  records: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
  """Layout of a record.

  A record is the label, a little-endian int32, followed by the image. With
  `multilabel`, it is the number of labels, the labels, then the image.

  Attributes:
    encoding: `raw` (H * W * C bytes, row-major), or `png` or `jpeg` (a complete
      file).
    image_shape: (H, W, C), the same for every record; C is 1 or 3.
    multilabel: whether a record has one or more labels instead of exactly one.
  """

  encoding: Encoding
  image_shape: tuple[int, int, int]
  multilabel: bool = False

  def __post_init__(self) -> None:
    if self.encoding not in _ENCODINGS:
      raise DataError(
        f"encoding={self.encoding!r} is not one of {', '.join(_ENCODINGS)}"
      )
    shape = self.image_shape
    if len(shape) != 3 or min(shape) < 1 or shape[2] not in (1, 3):
      raise DataError(
        f"image_shape={shape} must be (height, width, channels) with 1 or 3 "
        "channels"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """A sharded data set.

  Attributes:
    name: name of the data set.
    schema: layout of its records.
    class_names: name of each label; empty for an unlabeled set, in which
      every record has label 0.
    shards: shards in reading order.
    source: origin of the images.
    licence: license of the images, as an SPDX identifier if there is one.
    padding: black pixels added on each side of an image before it is resized
      for a model (`transforms.fit`). Digits of 28 px usually have a padding of
      2, which makes them 32 px.
    made: how the set was built: sizes, crops and removed records. Only its
      label counts affect how the set is used.
  """

  name: str
  schema: Schema
  class_names: tuple[str, ...]
  shards: tuple[ShardFile, ...]
  source: str
  licence: str
  padding: int = 0
  made: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def of(self, split: Split) -> tuple[ShardFile, ...]:
    """Returns the shards of one split, in reading order."""
    return tuple(shard for shard in self.shards if shard.split == split)

  def identity(self, split: Split) -> str:
    """Returns a name for one split's records that is independent of paths.

    Two sets have equal identities only if all records and labels are equal.
    Padding is not included (`Source.identity` includes it).
    """
    content = [
      self.schema.encoding,
      self.schema.image_shape,
      self.class_names,
      [(shard.records, shard.sha256) for shard in self.of(split)],
    ]
    if self.schema.multilabel:
      content.append("multilabel")
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return f"{self.name}/{split}@{digest[:16]}"


def open_json(path: str) -> IO[str]:
  """Opens a file to write JSON to.

  File names that are not valid Unicode are written as escapes, and JSON reads
  these back as the same names.
  """
  return open(path, "w", encoding="utf-8", errors="backslashreplace")


def save(manifest: Manifest, directory: str) -> None:
  """Writes `manifest.json` atomically."""
  tree = {"format_version": FORMAT_VERSION, **dataclasses.asdict(manifest)}
  path = os.path.join(directory, FILE_NAME)
  with open_json(f"{path}.partial") as file:
    json.dump(tree, file, indent=1, ensure_ascii=False)
    file.write("\n")
  os.replace(f"{path}.partial", path)


def load(directory: str) -> Manifest:
  """Reads and checks `manifest.json`.

  Raises:
    DataError: it is missing, is not JSON, has another version, or is incomplete
      or inconsistent.
  """
  path = os.path.join(directory, FILE_NAME)
  try:
    tree = json.loads(place.open_place(directory).read(FILE_NAME))
  except OSError as error:
    raise DataError(
      f"cannot read {path} ({error.strerror or error}); use a directory of "
      "shards, or build it again"
    ) from error
  except (ValueError, RecursionError) as error:
    raise DataError(
      f"{path} is not valid JSON ({error}); copy it again from where it was "
      "built, or build the set again"
    ) from error
  version = tree.get("format_version") if isinstance(tree, dict) else None
  if version != FORMAT_VERSION:
    raise DataError(
      f"{path} has format_version={version!r}, but this library reads "
      f"{FORMAT_VERSION}; build the set again. If the file is not a manifest "
      "of this library, move it out of the folder of images"
    )
  try:
    return _parse(tree)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    reason = f"{error} is missing" if isinstance(error, KeyError) else error
    raise DataError(
      f"{path} does not describe a data set: {reason}; copy it again from "
      "where it was built, or build the set again"
    ) from error


def _parse(tree: Mapping[str, Any]) -> Manifest:
  schema = Schema(
    encoding=tree["schema"]["encoding"],
    image_shape=tuple(_whole(n) for n in tree["schema"]["image_shape"]),
    multilabel=bool(tree["schema"].get("multilabel", False)),
  )
  shards = tuple(_parse_shard(shard) for shard in tree["shards"])
  files = [shard.file for shard in shards]
  if len(set(files)) != len(files):
    raise ValueError("it lists a shard twice")
  return Manifest(
    name=str(tree["name"]),
    schema=schema,
    class_names=_names(tree["class_names"]),
    shards=shards,
    source=str(tree["source"]),
    licence=str(tree["licence"]),
    padding=_padding(tree.get("padding", 0)),
    made=_made(tree.get("made", {})),
  )


def _parse_shard(tree: Mapping[str, Any]) -> ShardFile:
  file = str(tree["file"])
  if file != os.path.basename(file) or not file:
    raise ValueError(f"shard file {file!r} must be a plain file name")
  if tree["split"] not in _SPLITS:
    raise ValueError(
      f"shard {file} has split={tree['split']!r}, which is not one of "
      f"{', '.join(_SPLITS)}"
    )
  return ShardFile(
    file=file,
    split=tree["split"],
    records=_whole(tree["records"]),
    bytes=_whole(tree["bytes"]),
    sha256=str(tree["sha256"]),
  )


def _names(value: Any) -> tuple[str, ...]:
  if not isinstance(value, list) or not all(type(x) is str for x in value):
    raise ValueError("class_names must be a list of strings")
  return tuple(value)


def _made(value: Any) -> dict[str, Any]:
  """Parses `made`, and checks the fields of it that programs read."""
  made = dict(value)
  splits = made.get("splits", {})
  if not isinstance(splits, Mapping):
    raise ValueError("made.splits must be an object")
  for split, of_split in splits.items():
    counts = of_split.get("label_counts", [])
    if not isinstance(counts, list) or any(type(n) is not int for n in counts):
      raise ValueError(f"label_counts of {split} must be whole numbers")
  return made


def _padding(value: Any) -> int:
  if type(value) is not int or not 0 <= value <= MOST_PADDING:
    raise ValueError(
      f"padding={value!r} must be a whole number in [0, {MOST_PADDING}]"
    )
  return value


def _whole(value: Any) -> int:
  if type(value) is not int or value < 1:
    raise ValueError(f"{value!r} must be a whole number above 0")
  return value
