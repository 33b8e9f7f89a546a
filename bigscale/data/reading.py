"""Opens the sources that a run's spec names, and reads many records at once."""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import hashing, transforms
from bigscale.data.manifest import DataError, Split
from bigscale.data.mixture import (
  Deal,
  Labels,
  Mixed,
  deal_of,
  labels_of,
  shares_of,
)
from bigscale.data.openers import open_source
from bigscale.data.sources import (
  BadRecordError,
  Record,
  Source,
  padding_of,
)
from bigscale.data.subset import Subset
from bigscale.spec import DataSpec

# Version in the names of cached files. In version 2, unreadable records are
# left out, and a hash selects one of several labels.
VERSION = 2
_CHUNK = 250
_MAX_LOGGED = 5
_LABEL = 0x4C41424C
_log = logging.getLogger(__name__)


class LabelledImages(NamedTuple):
  """Records in the form that a model takes.

  Attributes:
    images: [N, R, R, C] uint8.
    labels: [N] int32, one of the labels of each record; 0 if it has none.
  """

  images: np.ndarray
  labels: np.ndarray


class SourceMix(NamedTuple):
  """The sources of a run; a single source if there is no mixture.

  Attributes:
    sources: sources in the order of the spec.
    deal: shares of the sources.
    labels: labels of the sources in the mixture.
  """

  sources: tuple[Source, ...]
  deal: Deal
  labels: Labels


def open_mix(
  spec: DataSpec, split: Split, seed: int = 0, *, whole: bool = False
) -> SourceMix:
  """Opens every source of a run.

  Args:
    spec: data spec of the run.
    split: split of each source. Subset sizes apply to the train split only.
    seed: seed of the mixture's deal.
    whole: whether to ignore subset sizes and open all images.

  Returns:
    The sources, with the shares used in training, also for other splits.

  Raises:
    DataError: a source cannot be opened, or the sources do not fit together.
  """
  parts = spec.mixture or (spec,)
  sources = tuple(
    _open(
      part.source,
      split,
      0 if whole else part.subset,
      part.classes,
      part.padding,
      spec.cache_gb,
    )
    for part in parts
  )
  sizes = [len(source) for source in sources]
  if spec.temperature and (whole or split != "train"):
    # Shares depend on training sizes, and other splits have other sizes.
    sizes = [
      len(
        _open(
          part.source,
          "train",
          part.subset,
          part.classes,
          part.padding,
          spec.cache_gb,
        )
      )
      for part in parts
    ]
  deal = deal_of(shares_of(spec, sizes), seed)
  return SourceMix(sources, deal, labels_of(spec, sources))


def _open(
  source: str,
  split: Split,
  subset: int,
  classes: int,
  padding: int | None,
  cache_gb: float,
) -> Source:
  opened = open_source(source, split, padding, cache_gb)
  size = subset if split == "train" else 0
  return Subset(opened, size, classes) if size or classes else opened


def open_data(spec: DataSpec, split: Split, *, whole: bool = False) -> Source:
  """Opens all records of a run as one source of finite length.

  Args:
    spec: data spec of the run.
    split: split of each source.
    whole: see `open_mix`.

  Raises:
    DataError: see `open_mix`.
  """
  mix = open_mix(spec, split, whole=whole)
  return Mixed(*mix) if spec.mixture else mix.sources[0]


def identities_of(spec: DataSpec) -> tuple[str, str]:
  """Returns the identities of both complete splits, as recorded in scores.

  Raises:
    DataError: see `open_mix`.
  """
  train = open_data(spec, "train", whole=True)
  heldout = open_data(spec, "heldout", whole=True)
  return train.identity, heldout.identity


def allowed_bad(spec: DataSpec, records: int) -> int:
  """Returns how many of `records` records may be unusable."""
  if spec.bad_records == "error":
    return 0
  return math.ceil(round(spec.max_bad_fraction * records, 6))


class Reader:
  """Reads records of one source for statistics, and counts their properties.

  Unusable records are left out and not replaced, so no image counts twice.

  Attributes:
    image_shape: (R, R, C) of the images.
    images_read: number of records read.
    resized: number of records with another size.
    recoloured: number of records with another number of channels.
    label_counts: [num_classes] float64, number of records of each class. A
      record with n labels adds 1 / n to each.
    unreadable: the reason for each unusable record, by index.
  """

  def __init__(
    self,
    source: Source,
    image_shape: tuple[int, int, int],
    most_bad: int | None = None,
  ) -> None:
    """Prepares to read records.

    Args:
      source: source to read.
      image_shape: (R, R, C) of the output images (`transforms.fit`).
      most_bad: largest allowed number of unusable records; None allows any.
    """
    self._source = source
    self.image_shape = image_shape
    self._most_bad = most_bad
    self.images_read = self.resized = self.recoloured = 0
    self.label_counts = np.zeros(source.num_classes)
    self.unreadable: dict[int, str] = {}

  def read(self, indices: Sequence[int]) -> LabelledImages:
    """Reads records in the given order.

    Args:
      indices: [N] indices of records that were not read before.

    Returns:
      The M <= N usable records.

    Raises:
      DataError: more than `most_bad` records are unusable.
    """
    indices = np.asarray(indices, np.int64)
    images = np.empty((len(indices), *self.image_shape), np.uint8)
    labels = np.zeros(len(indices), np.int32)
    choices = hashing.random_bits(0, _LABEL, indices).tolist()
    row = 0
    for index, choice in zip(indices.tolist(), choices, strict=True):
      try:
        sample = self._source.read(index)
      except BadRecordError as error:
        self._leave_out(index, error)
        continue
      padding = padding_of(self._source, index)
      transforms.fit_into(sample.image, images[row], padding)
      labels[row] = self._count(sample, choice)
      row += 1
    return LabelledImages(images[:row], labels[:row])

  def chunks(self, indices: Sequence[int]) -> Iterator[LabelledImages]:
    """Reads records in chunks; see `read`. No chunk is empty."""
    for start in range(0, len(indices), _CHUNK):
      samples = self.read(indices[start : start + _CHUNK])
      if len(samples.images):
        yield samples

  def facts(self) -> dict[str, Any]:
    """Returns the counts as JSON values."""
    return {
      "read": self.images_read,
      "resized": self.resized,
      "recoloured": self.recoloured,
      "unreadable": len(self.unreadable),
      "unreadable_example": next(iter(self.unreadable.values()), ""),
    }

  def _count(self, sample: Record, choice: int) -> int:
    """Counts a record, and returns one of its labels."""
    self.images_read += 1
    self.resized += sample.image.shape[:2] != self.image_shape[:2]
    self.recoloured += sample.image.shape[2] != self.image_shape[2]
    labels = sample.labels
    for label in labels:
      self.label_counts[label] += 1 / len(labels)
    return labels[choice % len(labels)] if labels else 0

  def _leave_out(self, index: int, error: BadRecordError) -> None:
    example = f"{error.where}: {error.reason}"
    self.unreadable[index] = example
    if len(self.unreadable) <= _MAX_LOGGED:
      _log.warning("left out of statistics: %s", example)
    if self._most_bad is not None:
      check_bad(self._source, len(self.unreadable), self._most_bad, example)


def check_bad(source: Source, bad: int, allowed: int, example: str) -> None:
  """Raises `DataError` if too many records are unusable.

  Args:
    source: source of the records.
    bad: number of unusable records.
    allowed: largest allowed number of unusable records.
    example: description of one unusable record.
  """
  if bad > allowed:
    raise DataError(
      f"{bad} or more records of {source!r} cannot be used, but "
      f"max_bad_fraction allows {allowed}, because scores would not include "
      f"these images. One of them: {example}. Fix them, or allow more "
      "(data.max_bad_fraction of a run, --max_bad_fraction of 'bigscale "
      "evaluate')"
    )


def read_many(
  source: Source, indices: Sequence[int], resolution: int, channels: int
) -> LabelledImages:
  """Reads the usable records, and logs a warning for each unusable one.

  Args:
    source: source to read.
    indices: [N] indices in any order.
    resolution: side of the images in pixels (`transforms.fit`).
    channels: 1 or 3.

  Returns:
    The M <= N usable records. If a record has several labels, a hash of its
    index selects one.
  """
  return Reader(source, (resolution, resolution, channels)).read(indices)
