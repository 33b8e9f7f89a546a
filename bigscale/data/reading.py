"""Opens what a run's spec names, and reads many records at once."""

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

# What is made of a source's records, in the names of cached files: 2 leaves
# out what cannot be read, and draws one label of several.
VERSION = 2
_CHUNK = 250
_MOST_LOGGED = 5
_LABEL = 0x4C41424C
_log = logging.getLogger(__name__)


class LabelledImages(NamedTuple):
  """Records, as a model takes them.

  Attributes:
    images: [N, R, R, C] uint8.
    labels: [N] int32, of each record one of those that it carries, 0 where it
      has none.
  """

  images: np.ndarray
  labels: np.ndarray


class SourceMix(NamedTuple):
  """The sources of a run, one where there is no mixture.

  Attributes:
    sources: in the order of the spec.
    deal: their shares.
    labels: their labels in the mixture.
  """

  sources: tuple[Source, ...]
  deal: Deal
  labels: Labels


def open_mix(
  spec: DataSpec, split: Split, seed: int = 0, *, whole: bool = False
) -> SourceMix:
  """Opens every source of a run.

  Args:
    spec: names them.
    split: of each. Subsets by size are of the train split alone.
    seed: of the mixture's deal.
    whole: open all images also of a source of which the run sees a subset.

  Returns:
    The sources, in the shares that they are trained in, whatever the split.

  Raises:
    DataError: a source cannot be opened, or they do not fit together.
  """
  parts = spec.mixture or (spec,)
  sources = tuple(
    _open(
      part.source,
      split,
      0 if whole else part.subset,
      part.classes,
      part.padding,
    )
    for part in parts
  )
  sizes = [len(source) for source in sources]
  if spec.temperature and (whole or split != "train"):
    # Other splits have other sizes, and would have other shares.
    sizes = [
      len(_open(part.source, "train", part.subset, part.classes, part.padding))
      for part in parts
    ]
  deal = deal_of(shares_of(spec, sizes), seed)
  return SourceMix(sources, deal, labels_of(spec, sources))


def _open(
  source: str, split: Split, subset: int, classes: int, padding: int | None
) -> Source:
  opened = open_source(source, split, padding)
  size = subset if split == "train" else 0
  return Subset(opened, size, classes) if size or classes else opened


def open_data(spec: DataSpec, split: Split, *, whole: bool = False) -> Source:
  """All of a run's records as one source of finite length.

  Args:
    spec: names the sources.
    split: of each.
    whole: see `open_mix`.

  Raises:
    DataError: as `open_mix`.
  """
  mix = open_mix(spec, split, whole=whole)
  return Mixed(*mix) if spec.mixture else mix.sources[0]


def identities_of(spec: DataSpec) -> tuple[str, str]:
  """Returns the identities of both splits, whole, as scores compare with them.

  Raises:
    DataError: as `open_mix`.
  """
  train = open_data(spec, "train", whole=True)
  heldout = open_data(spec, "heldout", whole=True)
  return train.identity, heldout.identity


def allowed_bad(spec: DataSpec, records: int) -> int:
  """Returns how many of so many records may be unusable."""
  if spec.bad_records == "error":
    return 0
  return math.ceil(round(spec.max_bad_fraction * records, 6))


class Reader:
  """Reads records of one source for statistics, and counts what it meets.

  A record that cannot be used is left out, and nothing takes its place: no
  image counts twice.

  Attributes:
    image_shape: (R, R, C) of the images.
    images_read: records that were read.
    resized: of these, those of another size.
    recoloured: of these, those of other channels.
    label_counts: [num_classes] float64, of these; a record of several labels
      counts an equal part for each.
    unreadable: why a record could not be used, by its index.
  """

  def __init__(
    self,
    source: Source,
    image_shape: tuple[int, int, int],
    most_bad: int | None = None,
  ) -> None:
    """Has read nothing.

    Args:
      source: to read.
      image_shape: (R, R, C) that images are fitted to (`transforms.fit`).
      most_bad: records that may be unusable; None allows any number.
    """
    self._source = source
    self.image_shape = image_shape
    self._most_bad = most_bad
    self.images_read = self.resized = self.recoloured = 0
    self.label_counts = np.zeros(source.num_classes)
    self.unreadable: dict[int, str] = {}

  def read(self, indices: Sequence[int]) -> LabelledImages:
    """Reads some records, in the given order.

    Args:
      indices: [N], none of which was read before.

    Returns:
      The M <= N records that can be used.

    Raises:
      DataError: more than `most_bad` records cannot be used.
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
    """Reads some records, some at a time; see `read`. No chunk is empty."""
    for start in range(0, len(indices), _CHUNK):
      samples = self.read(indices[start : start + _CHUNK])
      if len(samples.images):
        yield samples

  def facts(self) -> dict[str, Any]:
    """Returns JSON values: what was read, fitted and left out."""
    return {
      "read": self.images_read,
      "resized": self.resized,
      "recoloured": self.recoloured,
      "unreadable": len(self.unreadable),
      "unreadable_example": next(iter(self.unreadable.values()), ""),
    }

  def _count(self, sample: Record, choice: int) -> int:
    """Counts a record, and returns its label: one of those that it carries."""
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
    if len(self.unreadable) <= _MOST_LOGGED:
      _log.warning("left out of statistics: %s", example)
    if self._most_bad is not None:
      check_bad(self._source, len(self.unreadable), self._most_bad, example)


def check_bad(source: Source, bad: int, allowed: int, example: str) -> None:
  """Raises `DataError` where more records are unusable than may be.

  Args:
    source: of the records.
    bad: records that cannot be used.
    allowed: of them.
    example: says what is wrong with one of them.
  """
  if bad > allowed:
    raise DataError(
      f"{bad} or more records of {source!r} cannot be used, and "
      f"max_bad_fraction allows {allowed}: scores would be of other images "
      f"than it seems. One of them: {example}. Mend them, or allow "
      "more (data.max_bad_fraction of a run, --max_bad_fraction of 'bigscale "
      "evaluate')"
    )


def read_many(
  source: Source, indices: Sequence[int], resolution: int, channels: int
) -> LabelledImages:
  """Reads records; those that cannot be used are left out, with a warning.

  Args:
    source: to read.
    indices: [N], in any order.
    resolution: side of the images, pixels (`transforms.fit`).
    channels: 1 or 3.

  Returns:
    The M <= N records that can be used. Of a record of several labels one is
    drawn, by its index.
  """
  return Reader(source, (resolution, resolution, channels)).read(indices)
