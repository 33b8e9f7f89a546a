"""Reads folders of image files, and zips of the same layout.

The class of an image is the first directory below the root:
`root/cat/any/depth/1.jpg` is a cat. If the root contains only one directory,
that directory is the root. If there are fewer than two class directories, the
images have no labels. StyleGAN's `dataset.json` in the root overrides
directories.

Directories that are named like splits are the two splits (`split_names`: train
next to heldout, val, valid, validation, dev, eval or test, in any case, with a
year or words such as "images"). If several could be the held-out split, the
first in this order is used. Other directories next to them are not read.
Without such directories, 5% of the images are held out. A hash of the path
decides for each image, so adding images does not move others between the
splits. Ambiguous names of splits raise an error.

Hidden files, files with other extensions and other files that are not read are
counted in `notes`.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np

from bigscale.data import content, places, splits
from bigscale.data.encoded import (
  EncodedSource,
  PackedNames,
  RangeFile,
  check_length,
  check_size,
)
from bigscale.data.layout import FolderLayout
from bigscale.data.listing import list_folder, list_zip, unpack, unpack_first
from bigscale.data.manifest import DataError, Split
from bigscale.data.places import is_remote, local_path
from bigscale.data.sources import MissingFile
from bigscale.place import Place, open_place


class FolderSource(EncodedSource):
  """A split of a folder or zip of images in one of the layouts above.

  Listing a million files takes seconds, and each file takes about 60 bytes of
  memory. Labels of `dataset.json` are named "0", "1" and so on. The identity
  covers relative paths, sizes and labels. It also covers the checksums (CRC-32)
  of a zip, or the bytes of the files of a folder (`content`).

  Attributes:
    own_heldout: folder of the held-out split; "" if there is none.

  Args:
    path: the folder or .zip; `gs://` and `s3://` addresses also work.
    split: `train` or `heldout`.
    heldout_fraction: fraction of the images that is held out if the folder has
      no held-out split.

  Raises:
    DataError: there are no images, some have no label, `dataset.json` is
      invalid, or it is unclear which folders are splits.
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
    self._place: Place | None = None
    self._versions: PackedNames | None = None
    kind = places.kind_of(self._root)
    if kind != "folder" and self._root.lower().endswith(".zip"):
      try:
        self._zip = RangeFile(self._root)
      except OSError as error:
        raise DataError(
          f"{self._root} is not a readable zip ({error}); check the path"
        ) from error
      listing = list_zip(self._root)
    else:
      listing = list_folder(self._root)
      if is_remote(self._root):
        self._place = open_place(self._root)
    layout = FolderLayout(path, listing, self._table)
    chosen = layout.choose(split, heldout_fraction)
    self.notes = chosen.notes
    self.own_heldout = chosen.own_heldout
    self._paths = PackedNames([listing.paths[row] for row in chosen.rows])
    self._numbers = listing.numbers[chosen.rows]
    if listing.versions:
      versions = [listing.versions[row] for row in chosen.rows]
      self._versions = PackedNames(versions)
    digest = hashlib.sha256(self._paths.digest())
    # A file's offset in a zip and its compression are not part of the content.
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
    """See `Source`: checks that the folder exists, or the zip is unchanged."""
    if self._zip is not None:
      return self._zip.find_missing(len(self))
    if places.kind_of(self._root) == "folder":
      return ()
    message = f"{self._root} is no longer there; restore it"
    return (MissingFile(message, len(self)),)

  def _read_content(self) -> content.Content:
    if self._zip is not None:
      return content.Content(b"", "")
    return content.of_files(
      self._root,
      self._paths,
      self._numbers[:, 0],
      self.name,
      self._versions,
    )

  def _size(self, index: int) -> int:
    return int(self._numbers[index, 0])

  def _whole(self, index: int) -> bytes:
    path = self._paths[index]
    return self._read(path, self._numbers[index], self._version(index))

  def _version(self, index: int) -> str:
    return "" if self._versions is None else self._versions[index]

  def _first_bytes(self, index: int, size: int) -> bytes:
    if self._zip is not None:
      return unpack_first(self._zip, self._numbers[index], size)
    name = self._paths[index]
    if self._place is not None:
      return self._place.read_range(name, 0, size, self._version(index))
    path = os.path.join(self._root, name)
    with open(path, "rb", buffering=0) as file:
      return file.read(size)

  def _where(self, index: int) -> str:
    return os.path.join(self._root, self._paths[index])

  def _table(self, path: str, numbers: np.ndarray) -> Any:
    """Returns the parsed content of a `dataset.json`."""
    try:
      return json.loads(
        self._read(path, numbers), object_pairs_hook=_without_repeats
      )
    except (OSError, ValueError, RecursionError) as error:
      raise DataError(
        f"{os.path.join(self._root, path)} is not a readable JSON file "
        f"({error}); create it again, or remove it to use folders as labels"
      ) from error

  def _read(self, path: str, numbers: np.ndarray, version: str = "") -> bytes:
    size = check_size(int(numbers[0]))
    if self._zip is not None:
      return check_length(unpack(self._zip, numbers), size)
    if self._place is not None:
      return check_length(self._place.read(path, version), size)
    full = os.path.join(self._root, path)
    with open(full, "rb", buffering=0) as file:
      # Read at most one extra byte: the file may have grown.
      return check_length(file.read(size + 1), size)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the object of a JSON file; raises ValueError on duplicate keys."""
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError("it has a duplicate key")
  return found
