"""Implements `bigscale evaluate --images`, which scores any set of images."""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bigscale.cli import inspection
from bigscale.cli.flags import Flags
from bigscale.data import notes
from bigscale.data.inputs import BothSplits
from bigscale.data.manifest import DataError
from bigscale.data.reading import LabelledImages, Reader, open_data
from bigscale.data.shapes import Survey, choose, survey
from bigscale.spec import DataSpec, require

if TYPE_CHECKING:
  from bigscale.metrics.evaluator import Evaluator

# Number of images that are read and scored at a time.
_CHUNK = 250

_log = logging.getLogger(__name__)


def score(
  values: Flags,
  data: DataSpec | None,
  max_bad_fraction: float,
  make: Callable[[int, int, int], "Evaluator"],
) -> dict[str, Any]:
  """Reads and scores the images of --images.

  Args:
    values: the flags.
    data: data to compare with. None if --statistics is given.
    max_bad_fraction: largest fraction of unreadable images.
    make: returns an evaluator, given the number of images, their side in pixels
      and their channels.

  Returns:
    The result to print, as JSON values.

  Raises:
    DataError: too many images cannot be read, or the images differ in size or
      channels.
    SpecError: there are too few images for a score.
  """
  from bigscale.metrics.looking import look

  images = BothSplits(values.images)
  notes.warn(images.notes)
  count = values.num or len(images)
  require(
    count <= len(images),
    f"--num={count}, but {values.images} has {len(images)} images; give fewer",
  )
  found = survey(images)
  channels = values.channels and int(values.channels)
  side, channels = choose(images, found, values.resolution, channels)
  images.padding = _padding(values.padding, data, found)
  _warn_of_others(images, found, side, channels)
  evaluator = make(count, side, channels)
  inspected = inspection.Inspection(values, evaluator, data, side)
  most_bad = math.ceil(round(max_bad_fraction * count, 6))
  reader = Reader(images, (side, side, channels), most_bad)
  # Folders are listed class by class, and --num must sample all classes.
  rows = np.random.default_rng(0).permutation(len(images))
  batches = inspected.passing(_read(reader, rows, count))
  looked = look(evaluator.asked, batches, or_fewer=True)
  if reader.images_read < count:
    _warn_of_missing(reader, images, count)
    # Floors and baselines depend on the number of scored images.
    evaluator = make(reader.images_read, side, channels)
  scored = evaluator.compare(looked)
  return {
    "images": images.identity,
    "num_images": reader.images_read,
    **_reading_facts(reader, found, images.padding),
    **scored.scores,
    **({"failed": dict(scored.failed)} if scored.failed else {}),
    **inspected.results(),
    "throughput": evaluator.throughput,
    "reference": evaluator.reference,
  }


def _padding(flag: int | None, data: DataSpec | None, found: Survey) -> int:
  """Returns the padding of the images.

  Without a flag, this is the padding of the reals if both have the same side,
  else 0.
  """
  if data is None or flag is not None:
    return flag or 0
  reals = open_data(data, "train")
  if not reals.padding:
    return 0
  sides = [min(next(iter(each.counts))[:2]) for each in (found, survey(reals))]
  return reals.padding if sides[0] == sides[1] else 0


def _reading_facts(
  reader: Reader, found: Survey, padding: int
) -> dict[str, Any]:
  """Returns facts about how the images were read and resized."""
  met = reader.facts()
  side, _, channels = reader.image_shape
  return {
    "unreadable": met["unreadable"],
    "unreadable_example": met["unreadable_example"],
    "protocol": {
      "labels": "of no class: the images are given",
      "side": side,
      "channels": channels,
      "padding": padding,
      "resized": met["resized"],
      "recoloured": met["recoloured"],
      **found.facts(),
    },
  }


def _warn_of_missing(reader: Reader, images: BothSplits, count: int) -> None:
  """Warns that fewer images than requested can be read.

  Raises:
    DataError: no image can be read.
  """
  if not reader.images_read:
    raise DataError(
      f"none of the {count} images of {images!r} can be read; check the files"
    )
  _log.warning(
    "%d of %d images cannot be read; scoring the other %d",
    len(reader.unreadable),
    count,
    reader.images_read,
  )


def _read(
  reader: Reader, rows: Sequence[int], count: int
) -> Iterator[LabelledImages]:
  """Yields batches until `count` images are read or the rows are used up."""
  start = 0
  while reader.images_read < count and start < len(rows):
    end = start + min(_CHUNK, count - reader.images_read)
    samples = reader.read(rows[start:end])
    start = end
    if len(samples.images):
      yield samples


def _warn_of_others(
  images: BothSplits, found: Survey, side: int, channels: int
) -> None:
  """Warns if the images differ in size or channels."""
  if len(found.counts) > 1:
    _log.warning(
      "images of %r differ: %s; converting all to %d x %d x %d (choose others "
      "with --resolution and --channels)",
      images,
      found.describe(images),
      side,
      side,
      channels,
    )
