"""What the names of tars and of folders in them say that tars do not mean.

Tars are read as one set, whose labels are files beside the images. Who packs a
tree of folders means its folders.
"""

from collections.abc import Collection, Sequence

from bigscale.data import notes, split_names
from bigscale.data.manifest import DataError
from bigscale.data.split_names import Name


def check_splits(tars: Sequence[str], folders: Collection[str]) -> None:
  """Refuses tars that hold both splits of a set.

  Args:
    tars: their names without an ending.
    folders: paths of those in them that hold images.

  Raises:
    DataError: two names are those of a train and of a held-out split.
  """
  parts = {part for folder in folders for part in folder.split("/")}
  names = sorted({*tars, *parts})
  found = [known for name in names if (known := split_names.parse(name))]
  for train in found:
    for heldout in found:
      if _are_a_pair(train, heldout):
        raise DataError(
          f"{train.name} and {heldout.name} are named like splits, and tars "
          "are read as one: name those of one split as --input and those of "
          "the other as --heldout_input, or unpack them, and name the folder"
        )


def _are_a_pair(train: Name, heldout: Name) -> bool:
  return (train.kind, heldout.kind) == ("train", "heldout") and (
    train.rest == heldout.rest or (train.plain and heldout.plain)
  )


def folders_without_labels(folders: Collection[str]) -> tuple[str, ...]:
  """Returns a sentence where folders look like classes, and give no labels."""
  depth = len(_common([folder.split("/") for folder in folders]))
  names = {folder.split("/")[depth] for folder in folders if folder} - {""}
  if len(names) < 2:
    return ()
  return (
    f"there are no labels: tars give them in .cls or .json, not by folders "
    f"({notes.listed(sorted(names))}); unpack them to take these as classes",
  )


def _common(paths: Sequence[Sequence[str]]) -> Sequence[str]:
  """Returns what all paths begin with, short of the last part of each."""
  first, last = min(paths), max(paths)
  same = 0
  while same < min(len(first), len(last)) - 1 and first[same] == last[same]:
    same += 1
  return first[:same]
