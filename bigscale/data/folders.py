"""Folders of image files, and zips of the same layout.

The class of an image is the first directory below the root:
`root/cat/any/depth/1.jpg` is a cat. Where the root is one directory and
nothing else, that is the root; where there are fewer than two such
directories, there are no labels. StyleGAN's `dataset.json` in the root goes
before directories.

`root/train/` beside `root/heldout/` (or val, valid, validation, test) are the
two splits; otherwise a twentieth of the images is held out, each by its path,
so that images that are added move no other.

Names that start with a dot, and `__MACOSX`, are left out.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from bigscale.data import content, splits
from bigscale.data.encoded import (
  IMAGE_EXTENSIONS,
  EncodedSource,
  PackedNames,
  RangeFile,
  check_length,
  find_missing,
  is_remote,
  local_path,
)
from bigscale.data.listing import (
  LABELS_FILE,
  Listing,
  list_folder,
  list_zip,
  unpack,
)
from bigscale.data.manifest import DataError, Split
from bigscale.data.sources import Missing

_HELDOUT_FOLDERS = ("heldout", "val", "valid", "validation", "test")


class FolderSource(EncodedSource):
  """A split of a folder or zip of images; the module says of what layout.

  A million files are listed in seconds and kept as some 60 bytes each. Labels
  of `dataset.json` get the names "0", "1" and so on. The identity covers
  paths below the folder, sizes and labels; of a zip its checksums (CRC-32), of
  a folder the bytes of the files (`content`).

  Args:
    path: the folder or .zip; `gs://` and the like where `etils.epath` reads
      them.
    split: `train` or `heldout`.
    heldout_fraction: of the images, where the folder does not say.

  Raises:
    DataError: there are no images, some have no label, or `dataset.json` is
      not sound.
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
    if self._root.endswith(".zip") and not epath.Path(self._root).is_dir():
      self._zip = RangeFile(self._root)
      self._zip_size = epath.Path(self._root).stat().length
      listing = list_zip(self._root)
    else:
      listing = list_folder(self._root)
    chosen = _Layout(path, listing, self._table).choose(split, heldout_fraction)
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

  def check(self) -> tuple[Missing, ...]:
    """See `Source`: only that the folder is there, or the zip as it was."""
    if self._zip is not None:
      return find_missing(self._root, self._zip_size, len(self))
    if epath.Path(self._root).is_dir():
      return ()
    message = f"{self._root} is no longer there; put it back"
    return (Missing(message, len(self)),)

  def _read_content(self) -> content.Content:
    if self._zip is not None:
      return content.Content(b"", "")
    return content.of_files(
      self._root, self._paths, self._numbers[:, 0], self.name
    )

  def _encoded(self, index: int) -> bytes:
    return self._read(self._paths[index], self._numbers[index])

  def _where(self, index: int) -> str:
    return os.path.join(self._root, self._paths[index])

  def _table(self, path: str, numbers: np.ndarray) -> Any:
    """The content of a `dataset.json`."""
    try:
      return json.loads(self._read(path, numbers))
    except (OSError, ValueError) as error:
      raise DataError(
        f"{os.path.join(self._root, path)} is not a readable JSON file "
        f"({error}); make it again, or remove it to take labels from folders"
      ) from error

  def _read(self, path: str, numbers: np.ndarray) -> bytes:
    size = int(numbers[0])
    if self._zip is not None:
      return check_length(unpack(self._zip, numbers), size)
    full = os.path.join(self._root, path)
    if is_remote(full):
      return check_length(epath.Path(full).read_bytes(), size)
    with open(full, "rb", buffering=0) as file:
      return check_length(file.read(), size)


class _Chosen(NamedTuple):
  """One split: rows of the listing, their labels, and the names of those."""

  rows: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]


class _Layout:
  """Which files of a listing are in which split, and what their labels are.

  Args:
    root: for messages.
    listing: images and `dataset.json` files.
    read_table: reads a `dataset.json` by its path and numbers.
  """

  def __init__(
    self,
    root: str,
    listing: Listing,
    read_table: Callable[[str, np.ndarray], Any],
  ) -> None:
    self._root = root
    self._paths = listing.paths
    self._read_table = read_table
    self._tables = {
      path: listing.numbers[row]
      for row, path in enumerate(listing.paths)
      if os.path.basename(path) == LABELS_FILE
    }
    self._images = [
      row for row, path in enumerate(listing.paths) if path not in self._tables
    ]
    if not self._images:
      raise DataError(
        f"{root} is empty: no file in it ends in "
        f"{', '.join(IMAGE_EXTENSIONS)}; check the path"
      )
    self._base = self._find_base()

  def choose(self, split: Split, heldout_fraction: float) -> _Chosen:
    """Picks a split."""
    rows = self._images
    folders = self._folders(rows, self._base)
    beside = [name for name in _HELDOUT_FOLDERS if name in folders]
    if "train" in folders and beside:
      train = f"{self._base}train/"
      own = train if split == "train" else f"{self._base}{beside[0]}/"
      train_rows = [r for r in rows if self._paths[r].startswith(train)]
      names, labels = self._label(train_rows, train, None)
      rows = [r for r in rows if self._paths[r].startswith(own)]
      if split == "heldout":
        names, labels = self._label(rows, own, names)
      return _Chosen(np.array(rows), np.array(labels, np.int32), names)
    names, labels = self._label(rows, self._base, None)
    skipped = len(self._base)
    places = splits.places_of(self._paths[row][skipped:] for row in rows)
    heldout = splits.held_out(places, heldout_fraction)
    own = splits.rows_of(split, heldout, self._root)
    labels = np.array(labels, np.int32)
    return _Chosen(np.array(rows)[own], labels[own] if names else labels, names)

  def _find_base(self) -> str:
    """The innermost folder that holds everything, or has a dataset.json."""
    base = ""
    while f"{base}{LABELS_FILE}" not in self._tables:
      folders = self._folders(self._images, base)
      if len(folders) != 1 or None in folders:
        break
      base += f"{folders.pop()}/"
    return base

  def _folders(self, rows: list[int], base: str) -> set[str | None]:
    """First folders below a base; None for a file that lies in none."""
    return {_first_folder(self._paths[row], base) for row in rows}

  def _label(
    self, rows: list[int], base: str, known: tuple[str, ...] | None
  ) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and a label for each row; nothing where unlabelled.

    Args:
      rows: of the listing.
      base: folder that all of them are in.
      known: class names of the train split, where these are of the other.
    """
    for place in dict.fromkeys((base, self._base)):
      if f"{place}{LABELS_FILE}" in self._tables:
        return self._label_by_table(rows, place, known)
    folders = [_first_folder(self._paths[row], base) for row in rows]
    names = known
    if names is None:
      names = tuple(sorted({name for name in folders if name is not None}))
    if len(names) < 2:
      return (), []
    numbers = {name: number for number, name in enumerate(names)}
    for row, folder in zip(rows, folders, strict=True):
      if folder not in numbers:
        raise DataError(
          f"{self._root}: {self._paths[row]} lies in no folder of a class, "
          f"while there are {len(names)} such folders ({names[0]}, ...); move "
          "it into one of them, or out"
        )
    return names, [numbers[folder] for folder in folders]

  def _label_by_table(
    self, rows: list[int], base: str, known: tuple[str, ...] | None
  ) -> tuple[tuple[str, ...], list[int]]:
    path = f"{base}{LABELS_FILE}"
    table = self._read_table(path, self._tables[path])
    where = os.path.join(self._root, path)
    table = _check_table(table, where)
    if table is None:
      return (), []
    labels = []
    for row in rows:
      name = self._paths[row][len(base) :]
      if name not in table:
        raise DataError(
          f"{where} has no label for {name}; add one, or remove the image"
        )
      labels.append(table[name])
    names = splits.number_names(max(labels) + 1) if known is None else known
    if max(labels) >= len(names):
      raise DataError(
        f"{where} gives label {max(labels)} to a held-out image, but the train "
        f"split has {len(names)} classes; give both the same classes"
      )
    return names, labels


def _first_folder(path: str, base: str) -> str | None:
  folder, slash, _ = path[len(base) :].partition("/")
  return folder if slash else None


def _check_table(table: Any, where: str) -> dict[str, int] | None:
  """Labels by path; None where the images have none."""
  rule = (
    f"{where} must be "
    '{"labels": [["path/of/image.png", 3], ...]} with numbers from 0, or '
    '{"labels": null}'
  )
  if not isinstance(table, dict) or "labels" not in table:
    raise DataError(f"{rule}; it has no 'labels': make it again")
  if table["labels"] is None:
    return None
  labels = {}
  for row in table["labels"] or ({},):
    match row:
      case [str(path), int(label)] if 0 <= label < 2**31:
        labels[path] = label
      case _:
        raise DataError(f"{rule}; it has {row!r}: make it again")
  return labels
