"""Recognizes by their names which folders of a data set are its splits.

A name is split into words at digits, at capital letters and at characters other
than letters: `ILSVRC2012_img_train` becomes ilsvrc, img and train. A name is
*plain* if every word except the split's is neutral ("train2017", "Test_Set",
"images-val", "trainA"), and *exact* if there is no other word ("Train"). Two
names that are not plain are a pair of splits if they differ only in the word of
the split ("seg_train" and "seg_test"). `bullet_train` alone is a class.

Tars are read as one set, with labels in files next to the images. If tars
contain class folders instead, their source gets a note or raises an error.
"""

import functools
import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from bigscale.data import notes
from bigscale.data.manifest import DataError

Kind = Literal["train", "heldout", "other"]

_TRAIN = frozenset(("train", "training", "trn"))
# In order of preference: validation images first, then test images.
_HELDOUT = {
  0: ("heldout", "holdout"),
  1: (
    *("val", "vali", "valid", "validation", "validate"),
    *("dev", "devel", "development", "eval", "evaluation"),
  ),
  2: ("test", "testing", "tst"),
}
_RANKS = {word: rank for rank, words in _HELDOUT.items() for word in words}
_OTHER = frozenset(("unlabeled", "unlabelled", "unsup", "extra"))
# Words that do not describe the content of a folder.
_NEUTRAL = frozenset(
  (
    *("set", "sets", "split", "splits", "data", "dataset", "part", "fold"),
    *("image", "images", "img", "imgs", "pic", "pics", "picture", "pictures"),
    *("photo", "photos", "jpg", "jpeg", "png", "file", "files", "raw"),
    *("folder", "folders", "dir", "full", "all", "sample", "samples"),
    *("input", "inputs", "class", "classes"),
  )
)
_JOINED = re.compile(r"h([eo])ld[ _.-]?out", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_COMPOUND = re.compile(
  r"(train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev|eval|heldout|holdout)"
  r"(val|set|data|images?|imgs?)"
)


class Name(NamedTuple):
  """Parsed name of a folder.

  Attributes:
    name: name of the folder.
    kind: kind of split that the name indicates.
    rank: order of preference among names of one kind; 0 is preferred.
    plain: whether all words except the split's are neutral.
    exact: whether there is no other word.
    rest: words of the name, with `*` replacing the split's words.
  """

  name: str
  kind: Kind
  rank: int
  plain: bool
  exact: bool
  rest: tuple[str, ...]


class Assigned(NamedTuple):
  """Folder names of both splits; "" if there is no held-out folder."""

  train: str
  heldout: str


@functools.lru_cache(maxsize=1 << 16)
def parse(name: str) -> Name | None:
  """Parses a folder's name; returns None if it does not indicate a split."""
  words = _words(name)
  trains = [word for word in words if word in _TRAIN]
  ranks = [_RANKS[word] for word in words if word in _RANKS]
  others = [word for word in words if word in _OTHER]
  if not (trains or ranks or others):
    return None
  kind: Kind = "other" if others else "train" if trains else "heldout"
  # `trainval` contains the images of `train` and more.
  rank = int(bool(ranks)) if trains else min(ranks, default=0)
  speaking = [
    word
    for word in words
    if word not in _TRAIN and word not in _RANKS and word not in _OTHER
  ]
  plain = all(word in _NEUTRAL or len(word) == 1 for word in speaking)
  rest = tuple("*" if word not in speaking else word for word in words)
  exact = plain and not speaking and not re.search(r"\d", name)
  return Name(name, kind, rank, plain, exact, rest)


def _words(name: str) -> list[str]:
  found = []
  for word in _WORDS.findall(_JOINED.sub(r"h\1ldout", name)):
    compound = _COMPOUND.fullmatch(word.lower())
    found += compound.groups() if compound else (word.lower(),)
  return found


def assign(names: Sequence[str]) -> Assigned | None:
  """Selects the folders that are the splits.

  Args:
    names: names of all folders in the same parent folder.

  Returns:
    The folders of the splits, or None if the folders are not splits. Other
    folders may remain.

  Raises:
    ValueError: the names indicate splits, but are ambiguous. The message is an
      unfinished sentence.
  """
  found = [each for name in names if (each := parse(name))]
  trains = [each for each in found if each.kind == "train"]
  heldouts = [each for each in found if each.kind == "heldout"]
  plain_trains = [each for each in trains if each.plain]
  plain_heldouts = [each for each in heldouts if each.plain]
  if plain_trains and plain_heldouts:
    return Assigned(
      _choose(plain_trains, "train"), _choose(plain_heldouts, "held-out")
    )
  common = {each.rest for each in trains} & {each.rest for each in heldouts}
  if common:
    return Assigned(
      _choose([each for each in trains if each.rest in common], "train"),
      _choose([each for each in heldouts if each.rest in common], "held-out"),
    )
  if plain_heldouts:
    raise ValueError(
      f"{_listed(plain_heldouts)} named like a held-out split, but no folder "
      "next to it is named like a train split"
    )
  alike = len(found) == len(names)
  if (plain_trains or alike) and trains and heldouts:
    raise ValueError(
      f"{_listed([*trains, *heldouts])} named like splits, but do not match"
    )
  if alike and plain_trains:
    return Assigned(_choose(trains, "train"), "")
  return None


def _choose(found: Sequence[Name], what: str) -> str:

  def preference(each: Name) -> tuple[int, bool]:
    return each.rank, not each.exact

  first = min(map(preference, found))
  best = [each for each in found if preference(each) == first]
  if len(best) > 1:
    raise ValueError(f"{_listed(best)} all named like the {what} split")
  return best[0].name


def _listed(found: Sequence[Name]) -> str:
  names = [f"{each.name}/" for each in found]
  more = f" and {len(names) - 5} more" if len(names) > 5 else ""
  return ", ".join(names[:5]) + more + (" is" if len(names) == 1 else " are")


def check_tars(tars: Sequence[str], folders: Collection[str]) -> None:
  """Raises an error for tars that contain both splits of a data set.

  Args:
    tars: names of the tars without extension.
    folders: paths of the folders in them that contain images.

  Raises:
    DataError: the names indicate a train split and a held-out split.
  """
  parts = {part for folder in folders for part in folder.split("/")}
  names = sorted({*tars, *parts})
  found = [known for name in names if (known := parse(name))]
  for train in found:
    for heldout in found:
      if _are_a_pair(train, heldout):
        raise DataError(
          f"{train.name} and {heldout.name} are named like splits, but tars "
          "are read as one set: pass those of one split as --input and those "
          "of the other as --heldout_input, or unpack them and pass the folder"
        )


def _are_a_pair(train: Name, heldout: Name) -> bool:
  return (train.kind, heldout.kind) == ("train", "heldout") and (
    train.rest == heldout.rest or (train.plain and heldout.plain)
  )


def folders_without_labels(folders: Collection[str]) -> tuple[str, ...]:
  """Returns a note if folders look like classes but do not define labels."""
  depth = len(_common([folder.split("/") for folder in folders]))
  names = {folder.split("/")[depth] for folder in folders if folder} - {""}
  if len(names) < 2:
    return ()
  return (
    f"there are no labels: tars store them in .cls or .json files, not in "
    f"folders ({notes.listed(sorted(names))}); unpack the tars to use these "
    "folders as classes",
  )


def _common(paths: Sequence[Sequence[str]]) -> Sequence[str]:
  """Returns the common prefix of all paths, without any path's last part."""
  first, last = min(paths), max(paths)
  same = 0
  while same < min(len(first), len(last)) - 1 and first[same] == last[same]:
    same += 1
  return first[:same]
