"""Stacked MNIST: three digits as the channels of one image, with 1000 classes.

The number of modes that a generator covers can be counted exactly, unlike for
photographs (Metz et al. 2017, "Unrolled generative adversarial networks", sec.
3.3.1). The digits can come from any source of gray images with labels.
"""

import functools

import numpy as np

from bigscale.data import hashing
from bigscale.data.manifest import DataError, Split
from bigscale.data.shapes import survey
from bigscale.data.sources import (
  BadRecordError,
  MissingFile,
  Record,
  Source,
)
from bigscale.data.splits import check_index

CHANNELS = 3
# Number of stacks: in the train split as in Metz et al., in the held-out split
# the number of samples that is usually scored.
_RECORDS: dict[Split, int] = {"train": 128_000, "heldout": 26_000}
_HEADERS = 1000
_DIGITS = 0x5354414B  # `use` argument of `hashing.random_bits`.


class StackedSource(Source):
  """A split of stacked digits. Train stacks contain train digits only.

  Attributes:
    digits: source of the digits.
  """

  def __init__(self, digits: Source, name: str, split: Split) -> None:
    """Checks the digits.

    Args:
      digits: source of the digits, of the same split. Stacks use its padding.
      name: name of the source, for messages.
      split: `train` or `heldout`.

    Raises:
      DataError: the digits are unlabeled, have several labels, or are colored.
    """
    self.digits = digits
    self.padding = self.digits.padding
    self.notes = self.digits.notes
    self._records = _RECORDS[split]
    self._digit_shape = _check_digits(self.digits, name)
    names = self.digits.class_names
    between = "" if max(map(len, names)) == 1 else "+"
    self.class_names = tuple(
      between.join((a, b, c)) for a in names for b in names for c in names
    )
    self.name = f"stacked {self._records}/{self.digits.name}"

  @property
  def identity(self) -> str:
    """See `Source`."""
    return f"stacked {self._records}/{self.digits.identity}"

  @property
  def earlier_identity(self) -> str:
    """See `Source`."""
    return f"stacked {self._records}/{self.digits.earlier_identity}"

  @property
  def outline(self) -> str:
    """See `Source`."""
    return f"stacked {self._records}/{self.digits.outline}"

  def __len__(self) -> int:
    return self._records

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return self.digits.decodes

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See `Source`."""
    return (*self._digit_shape[:2], CHANNELS)

  def check_room(self, together: int) -> None:
    """See `Source`: a stack may have digits of any file."""
    del together
    self.digits.check_room(len(self.digits.file_records))

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`."""
    return self.digits.check()

  def read(self, index: int) -> Record:
    """Returns [H, W, 3] uint8; the label has one base-K digit per channel.

    K is the number of classes of the digits.
    """
    check_index(index, self._records)
    members = self._members(np.array(index)).tolist()
    stack = [self.digits.read(member) for member in members]
    for member, sample in zip(members, stack, strict=True):
      if sample.image.shape != self._digit_shape or len(sample.labels) != 1:
        raise BadRecordError(
          self.identity,
          index,
          f"one of its digits has the shape {sample.image.shape} and "
          f"{len(sample.labels)} labels, not {self._digit_shape} and 1",
          self.digits.where(member),
        )
    label = 0
    for sample in stack:
      label = label * self.digits.num_classes + sample.labels[0]
    return Record(
      np.concatenate([sample.image for sample in stack], -1), (label,)
    )

  def labels(self) -> np.ndarray:
    """See `Source`."""
    return self._labels

  @functools.cached_property
  def _labels(self) -> np.ndarray:
    of_digits = self.digits.labels()[self._members(np.arange(self._records))]
    bases = self.digits.num_classes ** np.arange(CHANNELS - 1, -1, -1)
    return (of_digits * bases[None]).sum(-1).astype(np.int32)

  def _members(self, indices: np.ndarray) -> np.ndarray:
    """Returns the digits [..., 3] int64 of stacks [...]."""
    places = indices[..., None] * CHANNELS + np.arange(CHANNELS)
    bits = hashing.random_bits(0, _DIGITS, places)
    return (bits % np.uint64(len(self.digits))).astype(np.int64)


def _check_digits(digits: Source, name: str) -> tuple[int, int, int]:
  """Returns the common shape of all digits.

  Raises:
    DataError: the digits are unlabeled, are colored, or differ in size.
  """
  # `read` checks every digit again, because this is only a sample.
  found = survey(digits, _HEADERS)
  source = f"data.source='stacked:{name}'"
  if not digits.num_classes:
    raise DataError(
      f"{source} has images without labels; use a source of gray images with "
      "one label each, such as tfds:mnist"
    )
  for shape, example in found.examples.items():
    if shape[-1] != 1:
      raise DataError(
        f"{source} has images of {shape[-1]} channels "
        f"({digits.where(example)}); use a source of gray images with one "
        "label each, such as tfds:mnist"
      )
  if len(found.counts) != 1:
    raise DataError(
      f"all images of {source} must have the same size: "
      f"{found.describe(digits)}; build a set of one size "
      "('bigscale data build')"
    )
  (shape,) = found.counts
  try:
    labels = len(digits.read(found.examples[shape]).labels)
  except BadRecordError:
    # Its header is valid. Reading the stack reports the error.
    labels = 1
  if labels != 1:
    raise DataError(
      f"{source} has images with {labels} labels; use a source of gray "
      "images with one label each, such as tfds:mnist"
    )
  return shape
