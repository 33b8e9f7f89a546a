"""Surveys the shapes of a source's images, and chooses the most common one."""

import collections
from collections.abc import Iterable, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from bigscale.data.hashing import Permutation
from bigscale.data.manifest import DataError
from bigscale.data.sources import BadRecordError, Source

# Maximum number of headers read of one source; larger sources are sampled.
MOST_HEADERS = 50_000
# Fraction of images that must agree before the others are converted to match.
MOST = 0.9

_KEY = 0x53484150
_THREADS = 16
_NAMED = 5

Shape = tuple[int, int, int]


class Survey(NamedTuple):
  """Shapes in the headers of a source's images.

  Attributes:
    counts: number of images of each shape (height, width, channels), most
      common first.
    examples: index of one image of each shape.
    unreadable: number of headers that could not be read.
    looked_at: number of headers, including unreadable ones.
    records: number of records of the source.
  """

  counts: Mapping[Shape, int]
  examples: Mapping[Shape, int]
  unreadable: int
  looked_at: int
  records: int

  def describe(self, source: Source) -> str:
    """Returns the shapes as text, most common first, each with a file."""
    named = [
      f"{count} of {text(shape)} ({source.where(self.examples[shape])})"
      for shape, count in list(self.counts.items())[:_NAMED]
    ]
    others = len(self.counts) - len(named)
    more = f" and {others} other shapes" if others else ""
    return f"{', '.join(named)}{more}, of {self.looked_at} headers read"

  def facts(self) -> dict[str, Any]:
    """Returns JSON values: shapes and headers read."""
    named = list(self.counts.items())[:_NAMED]
    found = {text(shape): count for shape, count in named}
    others = sum(self.counts.values()) - sum(found.values())
    return {
      "shapes": found | ({"others": others} if others else {}),
      "headers_read": self.looked_at,
    }


def survey(source: Source, most: int = MOST_HEADERS) -> Survey:
  """Reads the headers of a source's images.

  Args:
    source: source to survey.
    most: maximum number of headers to read, 1 or more. From a larger source,
      a sample is read that depends only on the source's size.
  """
  records = len(source)
  if source.image_shape is not None:
    shape = source.image_shape
    return Survey({shape: records}, {shape: 0}, 0, records, records)
  indices = np.arange(records)
  if records > most:
    indices = np.sort(Permutation(records, _KEY)(np.arange(most)))
  counts: collections.Counter[Shape] = collections.Counter()
  examples: dict[Shape, int] = {}
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda i: _shape(source, i), indices.tolist())
    for index, shape in zip(indices.tolist(), found, strict=True):
      if shape is not None:
        counts[shape] += 1
        examples.setdefault(shape, index)
  unreadable = len(indices) - sum(counts.values())
  ordered = dict(counts.most_common())
  return Survey(ordered, examples, unreadable, len(indices), records)


def _shape(source: Source, index: int) -> Shape | None:
  try:
    return source.shape(index)
  except BadRecordError:
    return None


def text(shape: Iterable[int]) -> str:
  """Formats a shape like 32 x 32 x 3."""
  return " x ".join(map(str, shape))


def choose(
  source: Source,
  found: Survey,
  side: int | None = None,
  channels: int | None = None,
) -> tuple[int, int]:
  """Returns the side and channels that images should be converted to.

  Args:
    source: source of the images, for messages.
    found: survey of the source.
    side: pixels; None uses the most common shorter side.
    channels: 1 or 3; None uses the most common value.

  Raises:
    DataError: no header could be read, or less than a fraction `MOST` of the
      images agree on a value that is None.
  """
  if not found.counts:
    raise DataError(
      f"none of {found.looked_at} headers of {source!r} can be read; check the "
      "files"
    )
  sides: collections.Counter[int] = collections.Counter()
  kinds: collections.Counter[int] = collections.Counter()
  for shape, count in found.counts.items():
    sides[min(shape[:2])] += count
    kinds[shape[-1]] += count
  for name, given, votes, remedy in (
    ("sizes", side, sides, "--resolution"),
    ("channels", channels, kinds, "--channels"),
  ):
    ((value, count),) = votes.most_common(1)
    if given is None and count < MOST * votes.total():
      raise DataError(
        f"images of {source!r} have different {name}: "
        f"{found.describe(source)}; pass {remedy} (such as {remedy}={value}) "
        "to convert all images, or remove those that do not belong to the set"
      )
  return (
    sides.most_common(1)[0][0] if side is None else side,
    kinds.most_common(1)[0][0] if channels is None else channels,
  )
