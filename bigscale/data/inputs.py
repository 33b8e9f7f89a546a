"""Opens the splits of any input that a user can name."""

import fnmatch
import glob
import os
from collections.abc import Mapping

import numpy as np

from bigscale import place
from bigscale.data import places
from bigscale.data.manifest import DataError, EmptySplitError, Split
from bigscale.data.openers import (
  has_own_splits,
  is_named,
  open_source,
  opener,
)
from bigscale.data.sources import Record, Source

HELDOUT_FRACTION = 0.05


def open_inputs(
  train: str,
  heldout: str = "",
  heldout_fraction: float = HELDOUT_FRACTION,
) -> Mapping[Split, Source]:
  """Opens the splits of an input.

  Args:
    train: a folder or .zip of images; a .tar or a glob pattern of tars;
      `idx:IMAGES,LABELS`; or anything that `open_source` opens.
    heldout: another input, all of which is held out; if empty, a fraction of
      `train` is held out.
    heldout_fraction: fraction of `train` to hold out, in [0, 1), if `train`
      has no splits of its own; 0 holds out nothing.

  Returns:
    The split `train`, and the split `heldout` if there is one.

  Raises:
    DataError: the input does not exist, or is invalid.
  """
  train, heldout = places.user_path(train), places.user_path(heldout)
  if not 0 <= heldout_fraction < 1:
    raise DataError(
      f"heldout={heldout_fraction} must lie in [0, 1); it is a fraction of "
      "the images"
    )
  if heldout:
    return {
      "train": _open_train_alone(train),
      "heldout": _open_train_alone(heldout),
    }
  inputs: dict[Split, Source] = {
    "train": _open(train, "train", heldout_fraction)
  }
  try:
    inputs["heldout"] = _open(train, "heldout", heldout_fraction)
  except EmptySplitError:
    # An empty held-out split is an error only if the caller requested one.
    if heldout_fraction and not has_own_splits(train):
      raise
  return inputs


def _open_train_alone(name: str) -> Source:
  """Opens a whole input, or only its train split, with a note."""
  source = _open(name, "train", 0.0)
  try:
    rest = len(_open(name, "heldout", 0.0))
  except EmptySplitError:
    return source
  source.notes += (
    f"{name}: its own held-out split ({rest:,} images) is not read, because "
    "another input is held out",
  )
  return source


def _open(name: str, split: Split, heldout_fraction: float) -> Source:
  if name.startswith("idx:"):
    images, _, labels = name.removeprefix("idx:").partition(",")
    if not labels:
      raise DataError(
        f"input={name!r} must name two files; write idx:IMAGES,LABELS"
      )
    paths = tuple(map(places.user_path, (images, labels)))
    for path in paths:
      places.check(path)
    return opener("idx")(*paths, split, heldout_fraction)
  ending = os.path.splitext(name)[1].lower()
  if ending == ".tar":
    places.check(name)
    paths = _matches(name)
    if not paths:
      raise DataError(f"input={name!r} matches no file; check the path")
    return opener("tar")(paths, split, heldout_fraction)
  kind = "" if is_named(name) else places.kind_of(name)
  if ending == ".npz" and kind == "file":
    return opener("npz")(name, split, heldout_fraction)
  if kind and not has_own_splits(name):
    return opener("folder")(name, split, heldout_fraction)
  return open_source(name, split)


def _matches(pattern: str) -> list[str]:
  """Returns the files that match a pattern, sorted."""
  if not places.is_remote(pattern):
    return sorted(glob.glob(pattern))
  if not glob.has_magic(pattern):
    return [pattern]
  folder, _, name = pattern.rpartition("/")
  found = place.open_place(folder).list()
  return [
    f"{folder}/{entry.name}"
    for entry in found
    if "/" not in entry.name and fnmatch.fnmatchcase(entry.name, name)
  ]


class BothSplits(Source):
  """All images of a folder, zip, .npz or sharded set, train split first."""

  def __init__(self, path: str, padding: int | None = None) -> None:
    """Opens the splits that exist.

    Args:
      path: a source as in `open_source`.
      padding: see `Source`.

    Raises:
      DataError: there are no images, or they cannot be read.
    """
    self._parts: list[Source] = []
    refused: list[EmptySplitError] = []
    for split in ("train", "heldout"):
      try:
        self._parts.append(open_source(path, split, padding))
      except EmptySplitError as error:
        # A set of few images may have no held-out image.
        refused.append(error)
    if not self._parts:
      raise refused[0]
    self._first = len(self._parts[0])
    self.class_names = self._parts[0].class_names
    sentences = (sentence for part in self._parts for sentence in part.notes)
    self.notes = tuple(dict.fromkeys(sentences))
    self.padding = self._parts[0].padding
    self.name = " + ".join(part.name for part in self._parts)

  @property
  def identity(self) -> str:
    """See `Source`."""
    return " + ".join(part.identity for part in self._parts)

  def __len__(self) -> int:
    return sum(len(part) for part in self._parts)

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return self._parts[0].decodes

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """See `Source`."""
    shapes = {part.image_shape for part in self._parts}
    return shapes.pop() if len(shapes) == 1 else None

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`."""
    part, index = self._place(index)
    return part.shape(index)

  def where(self, index: int) -> str:
    """See `Source`."""
    part, index = self._place(index)
    return part.where(index)

  def read(self, index: int) -> Record:
    """See `Source`."""
    part, index = self._place(index)
    return part.read(index)

  def _place(self, index: int) -> tuple[Source, int]:
    """Returns the split that contains an image, and the image's index in it."""
    if index < self._first:
      return self._parts[0], index
    return self._parts[1], index - self._first

  def labels(self) -> np.ndarray:
    """See `Source`."""
    return np.concatenate([part.labels() for part in self._parts])
