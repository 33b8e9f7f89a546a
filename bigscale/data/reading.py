"""Opens what a run's spec names, and reads many records at once."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigscale.data import transforms
from bigscale.data.mixture import (
  Deal,
  Labels,
  Mixed,
  deal_of,
  labels_of,
  shares_of,
)
from bigscale.data.sources import (
  BadRecordError,
  Sample,
  Source,
  Split,
  open_source,
  padding_of,
)
from bigscale.data.subset import Subset
from bigscale.spec import DataSpec

_TRIES = 16
_log = logging.getLogger(__name__)


class Samples(NamedTuple):
  """Records, as a model takes them.

  Attributes:
    images: [N, R, R, C] uint8.
    labels: [N] int32, the first of each record, 0 where it has none.
  """

  images: np.ndarray
  labels: np.ndarray


class Parts(NamedTuple):
  """The sources of a run, one where there is no mixture.

  Attributes:
    sources: in the order of the spec.
    deal: their shares.
    labels: their labels in the mixture.
  """

  sources: tuple[Source, ...]
  deal: Deal
  labels: Labels


def open_parts(spec: DataSpec, split: Split, seed: int = 0) -> Parts:
  """Opens every source of a run.

  Args:
    spec: names them.
    split: of each. Subsets by size are of the train split alone.
    seed: of the mixture's deal.

  Raises:
    DataError: a source cannot be opened, or they do not fit together.
  """
  parts = spec.mixture or (spec,)
  sources = tuple(
    _open(part.source, split, part.subset, part.classes, part.padding)
    for part in parts
  )
  deal = deal_of(shares_of(spec, sources), seed)
  return Parts(sources, deal, labels_of(spec, sources))


def _open(
  source: str, split: Split, subset: int, classes: int, padding: int | None
) -> Source:
  opened = open_source(source, split, padding)
  size = subset if split == "train" else 0
  return Subset(opened, size, classes) if size or classes else opened


def open_data(spec: DataSpec, split: Split) -> Source:
  """All of a run's records as one source of finite length.

  Raises:
    DataError: as `open_parts`.
  """
  parts = open_parts(spec, split)
  return Mixed(*parts) if spec.mixture else parts.sources[0]


def read_many(
  source: Source, indices: Sequence[int], resolution: int, channels: int
) -> Samples:
  """Reads records; of one that cannot be used, the next that can.

  Args:
    source: to read.
    indices: [N], in any order.
    resolution: side of the images, pixels (`transforms.fit`).
    channels: 1 or 3.

  Raises:
    BadRecordError: a record cannot be used, nor can those after it.
  """
  shape = (len(indices), resolution, resolution, channels)
  images, labels = np.empty(shape, np.uint8), np.zeros(len(indices), np.int32)
  for row, index in enumerate(np.asarray(indices).tolist()):
    sample = _read_from(source, index)
    transforms.fit_into(sample.image, images[row], padding_of(source, index))
    if sample.labels:
      labels[row] = sample.labels[0]
  return Samples(images, labels)


def _read_from(source: Source, index: int) -> Sample:
  for turn in range(_TRIES):
    try:
      return source.read((index + turn) % len(source))
    except BadRecordError as error:
      _log.warning("left out of statistics: %s", error)
      last = error
  raise last
