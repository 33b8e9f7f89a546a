"""Folders of image files, and zips of the same layout.

The class of an image is the first directory below the root:
`root/cat/any/depth/1.jpg` is a cat. Where the root is one directory and
nothing else, that is the root; where there are fewer than two such
directories, there are no labels. StyleGAN's `dataset.json` in the root goes
before directories.

Where directories are named like splits (`split_names`: train beside heldout,
val, valid, validation, dev, eval or test, in any case, with a year or words
such as "images"), they are the two splits: of several that could be held out
the first in this order. Others beside them are not read. Otherwise a twentieth
of the images is held out, each by its path, so that images that are added move
no other. Names that look like splits and cannot be are refused.

Hidden files, files of other endings and whatever else is not read are counted
in `notes`.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np
from etils import epath

from bigscale.data import content, splits
from bigscale.data.encoded import (
  EncodedSource,
  PackedNames,
  RangeFile,
  check_length,
  check_size,
  find_missing,
)
from bigscale.data.layout import FolderLayout
from bigscale.data.listing import list_folder, list_zip, unpack, unpack_first
from bigscale.data.manifest import DataError, Split
from bigscale.data.places import is_remote, local_path
from bigscale.data.sources import MissingFile


class FolderSource(EncodedSource):
  """A split of a folder or zip of images; the module says of what layout.

  A million files are listed in seconds and kept as some 60 bytes each. Labels
  of `dataset.json` get the names "0", "1" and so on. The identity covers
  paths below the folder, sizes and labels; of a zip its checksums (CRC-32), of
  a folder the bytes of the files (`content`).

  Attributes:
    own_heldout: the folder of its held-out split; "" where it has none.

  Args:
    path: the folder or .zip; `gs://` and the like where `etils.epath` reads
      them.
    split: `train` or `heldout`.
    heldout_fraction: of the images, where the folder does not say.

  Raises:
    DataError: there are no images, some have no label, `dataset.json` is not
      sound, or it is not clear which folders are splits.
  """

  def __init__(
    self,
    path: str,
    split: Split = "train",
    heldout_fraction: float = splits.HELDOUT_FRACTION,
  ) -> None:
    splits.check_split(split)
    self._root = local_path(path).rstrip("/")
    self._zip: RangeFile | None = None
    place = epath.Path(self._root)
    if place.suffix.lower() == ".zip" and not place.is_dir():
      self._zip = RangeFile(self._root)
      self._zip_size = place.stat().length
      listing = list_zip(self._root)
    else:
      listing = list_folder(self._root)
    layout = FolderLayout(path, listing, self._table)
    chosen = layout.choose(split, heldout_fraction)
    self.notes = chosen.notes
    self.own_heldout = chosen.own_heldout
    self._paths = PackedNames([listing.paths[row] for row in chosen.rows])
    self._numbers = listing.numbers[chosen.rows]
    digest = hashlib.sha256(self._paths.digest())
    # Where a file lies in a zip, and how it is packed, is not content.
    digest.update(self._numbers[:, :2].astype("<i8").tobytes())
    super().__init__(
      "zip" if self._zip else "folder",
      os.path.basename(self._root).removesuffix(".zip"),
      split,
      chosen.class_names,
      chosen.labels,
      None,
      digest.digest(),
    )

  def __len__(self) -> int:
    return len(self._paths)

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`: only that the folder is there, or the zip as it was."""
    if self._zip is not None:
      return find_missing(self._root, self._zip_size, len(self))
    if epath.Path(self._root).is_dir():
      return ()
    message = f"{self._root} is no longer there; put it back"
    return (MissingFile(message, len(self)),)

  def _read_content(self) -> content.Content:
    if self._zip is not None:
      return content.Content(b"", "")
    return content.of_files(
      self._root, self._paths, self._numbers[:, 0], self.name
    )

  def _size(self, index: int) -> int:
    return int(self._numbers[index, 0])

  def _whole(self, index: int) -> bytes:
    return self._read(self._paths[index], self._numbers[index])

  def _first_bytes(self, index: int, size: int) -> bytes:
    path = os.path.join(self._root, self._paths[index])
    if self._zip is not None:
      return unpack_first(self._zip, self._numbers[index], size)
    if is_remote(path):
      with epath.Path(path).open("rb") as file:
        return file.read(size)
    with open(path, "rb", buffering=0) as file:
      return file.read(size)

  def _where(self, index: int) -> str:
    return os.path.join(self._root, self._paths[index])

  def _table(self, path: str, numbers: np.ndarray) -> Any:
    """The content of a `dataset.json`."""
    try:
      return json.loads(
        self._read(path, numbers), object_pairs_hook=_without_repeats
      )
    except (OSError, ValueError, RecursionError) as error:
      raise DataError(
        f"{os.path.join(self._root, path)} is not a readable JSON file "
        f"({error}); make it again, or remove it to take labels from folders"
      ) from error

  def _read(self, path: str, numbers: np.ndarray) -> bytes:
    size = check_size(int(numbers[0]))
    if self._zip is not None:
      return check_length(unpack(self._zip, numbers), size)
    full = os.path.join(self._root, path)
    if is_remote(full):
      return check_length(epath.Path(full).read_bytes(), size)
    with open(full, "rb", buffering=0) as file:
      # Not to the end: it may have grown.
      return check_length(file.read(size + 1), size)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """The object of a JSON file, which may not have a key twice."""
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("it has a key twice")
  return found
