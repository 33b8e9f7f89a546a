"""`bigscale evaluate --images`: scores images that somebody has made."""

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

# Images read and scored at a time.
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
    data: that they are compared with; None where there are moments only.
    max_bad_fraction: of the images that cannot be read.
    make: the evaluator of so many images of a side and channels.

  Returns:
    What is printed, as JSON values.

  Raises:
    DataError: too many cannot be read, or they differ in size or channels.
    SpecError: there are too few for a score.
  """
  from bigscale.metrics.looking import look

  images = BothSplits(values.images)
  notes.warn(images.notes)
  asked = values.num or len(images)
  require(
    asked <= len(images),
    f"--num={asked}, but {values.images} has {len(images)} images; give fewer",
  )
  found = survey(images)
  channels = values.channels and int(values.channels)
  side, channels = choose(images, found, values.resolution, channels)
  images.padding = _padding(values.padding, data, found)
  _warn_of_others(images, found, side, channels)
  evaluator = make(asked, side, channels)
  seen = inspection.Inspection(values, evaluator, data, side)
  most_bad = math.ceil(round(max_bad_fraction * asked, 6))
  reader = Reader(images, (side, side, channels), most_bad)
  # Folders list class by class: parts are to be of all.
  rows = np.random.default_rng(0).permutation(len(images))
  batches = seen.passing(_read(reader, rows, asked))
  looked = look(evaluator.asked, batches, or_fewer=True)
  if reader.images_read < asked:
    _warn_of_missing(reader, images, asked)
    # Floors and baselines of as many images as are scored.
    evaluator = make(reader.images_read, side, channels)
  scored = evaluator.compare(looked)
  return {
    "images": images.identity,
    "num_images": reader.images_read,
    **_said(reader, found, images.padding),
    **scored.scores,
    **({"failed": dict(scored.failed)} if scored.failed else {}),
    **seen.results(),
    "throughput": evaluator.throughput,
    "reference": evaluator.reference,
  }


def _padding(asked: int | None, data: DataSpec | None, found: Survey) -> int:
  """Returns the padding of the images: that of reals of the same side."""
  if data is None or asked is not None:
    return asked or 0
  reals = open_data(data, "train")
  if not reals.padding:
    return 0
  sides = [min(next(iter(each.counts))[:2]) for each in (found, survey(reals))]
  return reals.padding if sides[0] == sides[1] else 0


def _said(reader: Reader, found: Survey, padding: int) -> dict[str, Any]:
  """How images were read and fitted."""
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


def _warn_of_missing(reader: Reader, images: BothSplits, asked: int) -> None:
  """Says that fewer images than asked for can be read.

  Raises:
    DataError: none can.
  """
  if not reader.images_read:
    raise DataError(
      f"none of the {asked} images of {images!r} can be read; check the files"
    )
  _log.warning(
    "%d of %d images cannot be read; the scores are of the other %d",
    len(reader.unreadable),
    asked,
    reader.images_read,
  )


def _read(
  reader: Reader, rows: Sequence[int], count: int
) -> Iterator[LabelledImages]:
  """Yields images until there are so many, or no others."""
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
  """Says that some images are not like the others."""
  if len(found.counts) > 1:
    _log.warning(
      "images of %r differ: %s; all are fitted to %d x %d x %d (--resolution "
      "and --channels choose others)",
      images,
      found.describe(images),
      side,
      side,
      channels,
    )
