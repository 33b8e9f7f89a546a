"""Which folders of a set are its splits, by their names.

A name is split into words at other letters than a to z, at digits and where
capitals begin: `ILSVRC2012_img_train` is ilsvrc, img and train. It is *plain*
where every word but that of the split says nothing ("train2017", "Test_Set",
"images-val", "trainA"), and *exact* where there is no other word ("Train").
Two other names are a pair of splits where they differ in that word alone
("seg_train" beside "seg_test"); `bullet_train` alone is a class.

Tars are read as one set, whose labels are files beside the images. Who packs a
tree of folders means its folders, which is said or refused.
"""

import functools
import re
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from bigscale.data import notes
from bigscale.data.manifest import DataError

Kind = Literal["train", "heldout", "other"]

_TRAIN = frozenset(("train", "training", "trn"))
# The order of preference: images meant for choosing, then for the last test.
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
# Words that say nothing of what is in a folder.
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
  """What a folder's name says.

  Attributes:
    name: of the folder.
    kind: of the split.
    rank: which is preferred of several of one kind, 0 first.
    plain: no word of it speaks of anything but the split.
    exact: there is no other word.
    rest: the words, `*` in place of the split's.
  """

  name: str
  kind: Kind
  rank: int
  plain: bool
  exact: bool
  rest: tuple[str, ...]


class Assigned(NamedTuple):
  """Names of the folders of both splits; "" where none is held out."""

  train: str
  heldout: str


@functools.lru_cache(maxsize=1 << 16)
def parse(name: str) -> Name | None:
  """Returns what a folder's name says of splits; None where it says nothing."""
  words = _words(name)
  trains = [word for word in words if word in _TRAIN]
  ranks = [_RANKS[word] for word in words if word in _RANKS]
  others = [word for word in words if word in _OTHER]
  if not (trains or ranks or others):
    return None
  kind: Kind = "other" if others else "train" if trains else "heldout"
  # `trainval` holds the images of `train` and more.
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
  """Returns which folders, side by side, are the splits.

  Args:
    names: of all folders that lie beside each other.

  Returns:
    None where they are no splits. Other folders than the two stay over.

  Raises:
    ValueError: they are named like splits, and it is not clear which is which;
      the message is a sentence without its end.
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
      f"{_listed(plain_heldouts)} named like a held-out split, and no folder "
      "beside it like its train split"
    )
  alike = len(found) == len(names)
  if (plain_trains or alike) and trains and heldouts:
    raise ValueError(
      f"{_listed([*trains, *heldouts])} named like splits, but not alike"
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
  """Refuses tars that hold both splits of a set.

  Args:
    tars: their names without an ending.
    folders: paths of those in them that hold images.

  Raises:
    DataError: two names are those of a train and of a held-out split.
  """
  parts = {part for folder in folders for part in folder.split("/")}
  names = sorted({*tars, *parts})
  found = [known for name in names if (known := parse(name))]
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
