"""Notes for the user about the content of a source, and what it lacks.

`Source.notes` contains the notes made when the source was opened. Commands that
open a source for a user log its notes once, using `of_sources` and `warn`.
"""

import collections
import logging
from collections.abc import Iterable, Mapping, Sequence

from bigscale.data.shown import shown
from bigscale.data.sources import Source

_SHOWN = 5
_log = logging.getLogger(__name__)


def warn(sentences: Iterable[str]) -> None:
  """Logs notes as warnings."""
  for sentence in sentences:
    _log.warning("data: %s", shown(sentence))


def of_sources(sources: Mapping[str, Iterable[Source]]) -> tuple[str, ...]:
  """Returns the notes of sources, without duplicates.

  Args:
    sources: sources by split name.
  """
  found = [
    sentence
    for split, of_split in sources.items()
    for source in of_split
    for sentence in of_source(source, split)
  ]
  return tuple(dict.fromkeys(found))


def of_source(source: Source, split: str) -> tuple[str, ...]:
  """Returns a source's notes, and a note about classes without images.

  Args:
    source: one split.
    split: name of the split.
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
      "; they are not trained, and samples of these classes are meaningless: "
      "number the labels from 0 without gaps, or leave these classes out"
    )
  return (*known, shown(line))


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
  """Formats names like "a, b, c and 7 more"."""
  more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
  return ", ".join(names[:shown]) + more


def by_ending(counts: Mapping[tuple[str, str], int]) -> str:
  """Formats file counts by extension, such as "20 .txt (cat: 12, dog: 8)".

  Args:
    counts: number of files by folder and extension. "" is the root, or no
      extension.
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
    total = f"{folders.total():,} {ending or 'without extension'}"
    parts.append(f"{total} ({listed(places, 3)})")
  return listed(parts, 10)
