"""Sentences on what a source holds and lacks, for who trains on it.

A source carries those that opening it tells (`Source.notes`). Who opens one
for a user prints them once, with `of_sources` and `warn`.
"""

import collections
import logging
from collections.abc import Iterable, Mapping, Sequence

from bigscale.data.shown import shown
from bigscale.data.sources import Source

_SHOWN = 5
_log = logging.getLogger(__name__)


def warn(sentences: Iterable[str]) -> None:
  """Logs notes, for who opens a source for a user."""
  for sentence in sentences:
    _log.warning("data: %s", shown(sentence))


def of_sources(sources: Mapping[str, Iterable[Source]]) -> tuple[str, ...]:
  """Returns what is to be known of sources, each sentence once.

  Args:
    sources: by the name of their split.
  """
  found = [
    sentence
    for split, of_split in sources.items()
    for source in of_split
    for sentence in of_source(source, split)
  ]
  return tuple(dict.fromkeys(found))


def of_source(source: Source, split: str) -> tuple[str, ...]:
  """Returns a source's notes, and which classes have no image.

  Args:
    source: one split.
    split: its name.
  """
  known = tuple(map(shown, source.notes))
  empty = source.empty_classes()
  if not empty:
    return known
  names = [
    f"{number} ({source.class_names[number]})"
    if source.class_names[number] != str(number)
    else str(number)
    for number in empty
  ]
  verb = "has" if len(empty) == 1 else "have"
  line = (
    f"{len(empty):,} of {source.num_classes:,} classes {verb} no image in "
    f"{source!r}: {listed(names)}"
  )
  if split == "train":
    line += (
      "; nothing trains them, and samples of them show nothing: number the "
      "labels from 0 without gaps, or leave these classes out"
    )
  return (*known, shown(line))


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
  """Returns "a, b, c and 7 more"."""
  more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
  return ", ".join(names[:shown]) + more


def by_ending(counts: Mapping[tuple[str, str], int]) -> str:
  """Returns a count of files by ending: "20 .txt (cat: 12, dog: 8)".

  Args:
    counts: of files, by folder and ending; "" is the root, or a file without
      ending.
  """
  endings: dict[str, collections.Counter[str]] = {}
  for (folder, ending), count in counts.items():
    endings.setdefault(ending, collections.Counter())[folder] += count
  parts = []
  for ending, folders in sorted(
    endings.items(), key=lambda item: (-item[1].total(), item[0])
  ):
    places = [
      f"{folder or 'the root'}: {count:,}"
      for folder, count in folders.most_common()
    ]
    total = f"{folders.total():,} {ending or 'without ending'}"
    parts.append(f"{total} ({listed(places, 3)})")
  return listed(parts, 10)
