"""What a user names as input, opened: every kind of source, by its splits."""

import glob
import os
from collections.abc import Mapping

from etils import epath

from bigscale.data import manifest as manifests
from bigscale.data import places
from bigscale.data.manifest import DataError, EmptySplitError, Split
from bigscale.data.sources import (
  EMBEDDED,
  Source,
  local_place,
  open_source,
)

HELDOUT_FRACTION = 0.05


def open_inputs(
  train: str,
  heldout: str = "",
  heldout_fraction: float = HELDOUT_FRACTION,
) -> Mapping[Split, Source]:
  """Opens the splits of an input.

  Args:
    train: a folder or .zip of images; a .tar or a pattern of several;
      `idx:IMAGES,LABELS`; or whatever else `open_source` opens.
    heldout: another input, all of which is held out; empty for a part of
      `train`.
    heldout_fraction: that part, in [0, 1), where `train` is of a kind that has
      no splits of its own; 0 for none.

  Returns:
    `train`, and `heldout` where there is one.

  Raises:
    DataError: there is no such input, or it is not sound.
  """
  train, heldout = local_place(train), local_place(heldout)
  if not 0 <= heldout_fraction < 1:
    raise DataError(
      f"heldout={heldout_fraction} must lie in [0, 1); it is a part of the "
      "images"
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
    # That it has none is an error only where one was asked for.
    if heldout_fraction and not _has_own_splits(train):
      raise
  return inputs


def _open_train_alone(name: str) -> Source:
  """All of an input; its train split, which is said, where it has two."""
  source = _open(name, "train", 0.0)
  try:
    rest = len(_open(name, "heldout", 0.0))
  except EmptySplitError:
    return source
  source.notes += (
    f"{name}: its own held-out split ({rest:,} images) is not read, since "
    "another input is held out",
  )
  return source


def _open(name: str, split: Split, heldout_fraction: float) -> Source:
  if name.startswith("idx:"):
    from bigscale.data.idx import IdxSource

    images, _, labels = name.removeprefix("idx:").partition(",")
    if not labels:
      raise DataError(
        f"input={name!r} must name two files; write idx:IMAGES,LABELS"
      )
    paths = tuple(map(local_place, (images, labels)))
    for path in paths:
      places.check(path)
    return IdxSource(*paths, split, heldout_fraction)
  ending = os.path.splitext(name)[1].lower()
  if ending == ".tar":
    from bigscale.data.archives import TarSource

    places.check(name)
    paths = _matches(name)
    if not paths:
      raise DataError(f"input={name!r} matches no file; check the path")
    return TarSource(paths, split, heldout_fraction)
  if ending == ".npz" and os.path.isfile(name):
    from bigscale.data.memory import ArraySource

    return ArraySource.load(name, split, heldout_fraction)
  if not _has_own_splits(name) and os.path.exists(name):
    from bigscale.data.folders import FolderSource

    return FolderSource(name, split, heldout_fraction)
  return open_source(name, split)


def _matches(pattern: str) -> list[str]:
  """The files that a pattern names, in order."""
  if "://" not in pattern:
    return sorted(glob.glob(pattern))
  if not glob.has_magic(pattern):
    return [pattern]
  folder, _, name = pattern.rpartition("/")
  return sorted(map(os.fspath, epath.Path(folder).glob(name)))


def _has_own_splits(name: str) -> bool:
  if name.startswith(("tfds:", "stacked:", "synthetic:")) or name in EMBEDDED:
    return True
  return os.path.exists(os.path.join(name, manifests.FILE_NAME))
