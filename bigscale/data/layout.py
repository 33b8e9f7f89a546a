"""Assigns the files of a folder or zip to splits, and labels to images.

`folders` describes the layouts. `Chosen.notes` reports what is not read.
Ambiguous layouts raise an error.
"""

import collections
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import label_table, notes, split_names, splits
from bigscale.data.encoded import IMAGE_EXTENSIONS
from bigscale.data.listing import LABELS_FILE, Listing
from bigscale.data.manifest import DataError, Split
from bigscale.data.split_names import Assigned


class Chosen(NamedTuple):
  """Rows, labels and notes of one split.

  Attributes:
    rows: rows of the listing.
    labels: [N] int32; empty without labels.
    class_names: name of each label; () without labels.
    notes: sentences about the whole layout, the same for both splits.
    own_heldout: folder of the held-out split; "" if there is none.
  """

  rows: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  notes: tuple[str, ...]
  own_heldout: str


class FolderLayout:
  """The layout of a folder or zip.

  Args:
    root: path of the folder or zip, for messages.
    listing: images and `dataset.json` files.
    read_table: reads a `dataset.json`, given its path and its row of
      `Listing.numbers`.

  Raises:
    DataError: there are no images, or it is unclear which folders are splits.
  """

  def __init__(
    self,
    root: str,
    listing: Listing,
    read_table: Callable[[str, np.ndarray], Any],
  ) -> None:
    self._root = root
    self._name = os.path.basename(root.rstrip("/")) or root
    self._paths = listing.paths
    self._read_table = read_table
    self._tables = {
      path: listing.numbers[row]
      for row, path in enumerate(listing.paths)
      if path.endswith(LABELS_FILE) and os.path.basename(path) == LABELS_FILE
    }
    self._images = [
      row for row, path in enumerate(listing.paths) if path not in self._tables
    ]
    self._notes: list[str] = []
    self._used_tables: set[str] = set()
    if not self._images:
      raise DataError(_is_empty(root, listing))
    self._base = self._descend(self._images, "")
    self._note_heldout_alone()
    self._splits = self._find_splits()
    self._note_files(listing)

  def choose(self, split: Split, heldout_fraction: float) -> Chosen:
    """Returns one split.

    Args:
      split: `train` or `heldout`.
      heldout_fraction: fraction of the images to hold out if no folder is the
        held-out split.

    Raises:
      DataError: the split has no images, or only some images have a label.
    """
    found = self._splits
    train = self._base + (f"{found.train}/" if found else "")
    train_rows = self._below(train)
    base = self._descend(train_rows, train)
    names, labels = self._label(train_rows, (base, train), None)
    if not (found and found.heldout):
      rows = np.array(train_rows)
      # Hashes exclude the common base folder, so renaming it moves no image.
      places = splits.places_of(self._paths[r][len(base) :] for r in train_rows)
      heldout = splits.held_out(places, heldout_fraction)
      own = splits.rows_of(split, heldout, self._root)
      labels = np.array(labels, np.int32)
      return self._chosen(rows[own], labels[own] if names else labels, names)
    heldout = f"{self._base}{found.heldout}/"
    rows = train_rows
    if split == "heldout":
      rows = self._below(heldout)
      base = self._descend(rows, heldout, names)
      names, labels = self._label(rows, (base, heldout), names)
    return self._chosen(np.array(rows), np.array(labels, np.int32), names)

  def _chosen(
    self, rows: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
  ) -> Chosen:
    unused = sorted(self._tables.keys() - self._used_tables)
    unused = [path for path in unused if not self._is_of_other_split(path)]
    found = list(self._notes)
    if unused:
      found.append(
        f"{self._name}: {notes.listed(unused)} is not used; labels are read "
        "only from the folder that contains all images of a split"
      )
    own = self._splits.heldout if self._splits else ""
    return Chosen(rows, labels, names, tuple(dict.fromkeys(found)), own)

  def _is_of_other_split(self, path: str) -> bool:
    folders = self._splits or ()
    places = {f"{self._base}{name}/{LABELS_FILE}" for name in folders if name}
    return path in places

  def _below(self, base: str) -> list[int]:
    return [row for row in self._images if self._paths[row].startswith(base)]

  def _descend(
    self, rows: list[int], base: str, classes: Sequence[str] = ()
  ) -> str:
    """Returns the innermost folder with all rows or with a `dataset.json`.

    Args:
      rows: rows of the listing, all below `base`.
      base: folder to start from.
      classes: names of class folders, which are never entered.
    """
    while f"{base}{LABELS_FILE}" not in self._tables:
      folders = self._folders(rows, base)
      if len(folders) != 1 or not folders.isdisjoint((None, *classes)):
        break
      base += f"{folders.pop()}/"
    return base

  def _folders(self, rows: list[int], base: str) -> set[str | None]:
    """Returns the first folders below a base; None stands for loose files."""
    return {_first_folder(self._paths[row], base) for row in rows}

  def _note_heldout_alone(self) -> None:
    for name in self._base.split("/"):
      known = split_names.parse(name)
      if known and known.plain and known.kind == "heldout":
        self._notes.append(
          f"{self._name}: all images are in {name}/, which is named like a "
          "held-out split; they are used for training"
        )

  def _find_splits(self) -> Assigned | None:
    """Returns the folders of the splits; None if no folder is a split."""
    folders = self._folders(self._images, self._base) - {None}
    has_table = f"{self._base}{LABELS_FILE}" in self._tables
    try:
      found = split_names.assign(sorted(folders))
    except ValueError as error:
      if not has_table:
        raise self._unclear(error) from error
      self._notes.append(
        f"{self._name}: {error}; all images are one set, because "
        f"{LABELS_FILE} lists them"
      )
      return None
    if found is None and not has_table:
      self._check_below(self._images, self._base)
      self._check_classes(folders)
    return found

  def _unclear(self, reason: object, place: str = "") -> DataError:
    where = f"{self._root}, in {place}" if place else self._root
    return DataError(
      f"{where}: {reason}; name the two splits train and val (a folder of "
      f"symbolic links is enough), or, if these folders are classes, rename "
      f"them or list the labels in {LABELS_FILE}"
    )

  def _check_below(self, rows: list[int], base: str) -> None:
    """Raises `DataError` if there are folders named like splits in classes."""
    inside: dict[str, set[str]] = collections.defaultdict(set)
    deepest = {self._paths[row][len(base) :].rpartition("/")[0] for row in rows}
    for folder in deepest:
      while folder:
        parent, _, name = folder.rpartition("/")
        if name in inside[parent]:
          break
        inside[parent].add(name)
        folder = parent
    for parent, names in sorted(inside.items()):
      place = f"{base}{parent}".rstrip("/")
      try:
        found = split_names.assign(sorted(names))
      except ValueError as error:
        raise self._unclear(error, place) from error
      if found and found.heldout:
        raise self._unclear(
          f"{found.train}/ and {found.heldout}/ are splits inside of a class",
          place,
        )

  def _check_classes(self, folders: set[str]) -> None:
    """Raises `DataError` for a class that is a split; notes similar names."""
    alike = [name for name in sorted(folders) if split_names.parse(name)]
    for name in alike:
      known = split_names.parse(name)
      if known.plain and known.kind == "train":
        place = f"{self._base}{name}/"
        inside = self._folders(self._below(place), place) - {None}
        if len(inside) > 1:
          raise self._unclear(
            f"{name}/ is named like a split and has {len(inside)} folders, but "
            "the folders next to it are not splits"
          )
    if alike:
      what = "is a class" if len(alike) == 1 else "are classes"
      self._notes.append(
        f"{self._name}: {notes.listed([f'{name}/' for name in alike])} {what}, "
        "despite being named like a split"
      )

  def _note_files(self, listing: Listing) -> None:
    """Adds notes about the files that are read, and those that are not."""
    endings = collections.Counter(
      self._paths[row].rpartition(".")[2] for row in self._images
    )
    lower: collections.Counter[str] = collections.Counter()
    for ending, count in endings.items():
      lower[f".{ending.lower()}"] += count
    found = self._splits
    by_folder = collections.Counter(
      _first_folder(self._paths[row], self._base) for row in self._images
    )
    if found:
      parts = [
        f"{name}/ ({by_folder[name]:,} images)" for name in found if name
      ]
      of = ["the train split", "the held-out split"]
      roles = [f"{a} is {b}" for a, b in zip(parts, of, strict=False)]
      self._notes.insert(0, f"{self._name}: {', '.join(roles)}")
      rest = {k: v for k, v in by_folder.items() if k not in found}
      if rest:
        folders = [
          f"{name}/ ({count:,} images)" if name else f"loose images ({count:,})"
          for name, count in sorted(rest.items(), key=lambda i: i[0] or "")
        ]
        self._notes.append(
          f"{self._name}: not read, in neither split: {notes.listed(folders)}"
        )
    if len(lower) > 1 or listing.left_out:
      read = [f"{count:,} {ending}" for ending, count in lower.most_common()]
      self._notes.append(
        f"{self._name}: images by extension: {', '.join(read)}"
      )
    if listing.left_out:
      self._notes.append(
        f"{self._name}: left out, without an image extension: "
        f"{notes.by_ending(listing.left_out)}"
      )
    if listing.hidden:
      self._notes.append(
        f"{self._name}: hidden files left out: "
        f"{notes.by_ending(listing.hidden)}"
      )

  def _label(
    self,
    rows: list[int],
    bases: tuple[str, str],
    known: tuple[str, ...] | None,
  ) -> tuple[tuple[str, ...], list[int]]:
    """Returns class names and a label for each row; both empty without labels.

    Args:
      rows: rows of the listing.
      bases: folders that contain all rows, innermost first.
      known: class names of the train split, to label the held-out split; None
        to label the train split.
    """
    base = bases[0]
    for place in dict.fromkeys((*bases, self._base)):
      if f"{place}{LABELS_FILE}" in self._tables:
        return self._label_by_table(rows, place, known)
    if self._splits:
      self._check_below(rows, base)
    folders = [_first_folder(self._paths[row], base) for row in rows]
    names = known
    if names is None:
      names = tuple(sorted({name for name in folders if name is not None}))
      self._note_classes(rows, base, names)
    if len(names) < 2:
      return (), []
    numbers = {name: number for number, name in enumerate(names)}
    for row, folder in zip(rows, folders, strict=True):
      if folder not in numbers:
        raise DataError(
          f"{self._root}: {self._paths[row]} is not in a class folder, but "
          f"there are {len(names)} class folders ({names[0]}, ...); move it "
          "into one of them, or out of the data set"
        )
    return names, [numbers[folder] for folder in folders]

  def _note_classes(
    self, rows: list[int], base: str, names: tuple[str, ...]
  ) -> None:
    if len(names) == 1:
      inner = f"{base}{names[0]}/"
      inside = [row for row in rows if self._paths[row].startswith(inner)]
      if len(self._folders(inside, inner)) > 1 and len(inside) < len(rows):
        self._notes.append(
          f"{self._name}: there are no labels, because some images are not in "
          f"the only folder {inner}; move them out to use its folders as "
          f"classes"
        )
    same = collections.Counter(name.casefold() for name in names)
    twice = [name for name in names if same[name.casefold()] > 1]
    if twice:
      self._notes.append(
        f"{self._name}: class names differ only in case: {notes.listed(twice)}"
      )

  def _label_by_table(
    self, rows: list[int], base: str, known: tuple[str, ...] | None
  ) -> tuple[tuple[str, ...], list[int]]:
    path = f"{base}{LABELS_FILE}"
    where = os.path.join(self._root, path)
    self._used_tables.add(path)
    table = label_table.check(self._read_table(path, self._tables[path]), where)
    if table is None:
      return (), []
    start = len(base)
    labels = label_table.look_up(
      table, [self._paths[row][start:] for row in rows], where
    )
    there = {self._paths[row][start:] for row in self._below(base)}
    gone = [name for name in table if name not in there]
    if gone:
      self._notes.append(
        f"{self._name}: {path} names files that are not among the images, "
        f"{len(gone):,} in total: {notes.listed(gone)}"
      )
    if known is not None:
      label_table.check_classes(labels, len(known), where)
    return known or splits.number_names(max(labels) + 1, where), labels


def _is_empty(root: str, listing: Listing) -> str:
  message = (
    f"{root} is empty: no file in it ends in {', '.join(IMAGE_EXTENSIONS)}; "
    "check the path"
  )
  sets = sorted({f for f, e in listing.left_out if e == ".array_record" and f})
  if sets:
    message += f", or use one of the sharded sets in it ({notes.listed(sets)})"
  if listing.left_out:
    message += f"; it has {notes.by_ending(listing.left_out)}"
  if listing.hidden:
    message += f"; it has hidden files: {notes.by_ending(listing.hidden)}"
  return message


def _first_folder(path: str, base: str) -> str | None:
  folder, slash, _ = path[len(base) :].partition("/")
  return folder if slash else None
