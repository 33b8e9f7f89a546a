"""Where a stream stands, and its batches, step by step from there."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.sequence import Fault, Records
from bigscale.types import Batch


@dataclasses.dataclass(frozen=True)
class Position:
  """Of a stream, over all processes.

  Attributes:
    consumed: records that were used.
    skipped: ranges [start, end) of places that no record is taken from; they
      are sorted and do not touch.
  """

  END: ClassVar[int] = 1 << 62  # Places stay below it, and so fit int64.

  consumed: int = 0
  skipped: tuple[tuple[int, int], ...] = ()

  def of(self, consumed: np.ndarray) -> np.ndarray:
    """Places of the records that come after so many others: [N] int64."""
    consumed = np.asarray(consumed, np.int64)
    if not self.skipped:
      return consumed
    starts, ends = np.array(self.skipped, np.int64).T
    lengths = np.cumsum(ends - starts)
    # How many are used before each range.
    before = starts - np.concatenate([[0], lengths[:-1]])
    passed = np.searchsorted(before, consumed, side="right")
    return consumed + np.concatenate([[0], lengths])[passed]

  def after(self, records: int) -> "Position":
    """The position so many records on."""
    return dataclasses.replace(self, consumed=self.consumed + records)

  def next_range(self, records: int) -> tuple[int, int]:
    """Places of the next records, from the first to behind the last."""
    if records < 1:
      raise DataError(f"a skip of {records} records must be of 1 or more")
    first, last = self.of(
      np.array([self.consumed, self.consumed + records - 1])
    ).tolist()
    return first, last + 1

  def without(self, start: int, end: int) -> "Position":
    """The same position, with places [start, end) left out from now on."""
    ranges = sorted([*self.skipped, (start, end)])
    joined = [ranges[0]]
    for begin, stop in ranges[1:]:
      if begin <= joined[-1][1]:
        joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
      else:
        joined.append((begin, stop))
    return dataclasses.replace(self, skipped=tuple(joined))

  def to_json(self) -> dict[str, Any]:
    """Plain values."""
    return {
      "records_consumed": self.consumed,
      "skipped": [list(places) for places in self.skipped],
    }

  @classmethod
  def from_json(cls, state: Mapping[str, Any]) -> "Position":
    """Reads what `to_json` gave.

    Raises:
      DataError: it did not give this.
    """
    consumed, skipped = state.get("records_consumed"), state.get("skipped", [])
    sound = type(consumed) is int and 0 <= consumed < cls.END
    try:
      ranges = tuple((int(start), int(end)) for start, end in skipped)
    except (TypeError, ValueError):
      sound, ranges = False, ()
    edges = [place for places in ranges for place in places]
    sound = sound and edges == sorted(set(edges)) and min(edges, default=0) >= 0
    if not sound:
      raise DataError(
        f"a stream cannot resume from {dict(state)!r}: records_consumed must "
        "be a whole number from 0, and skipped ranges of places in order; "
        "restore it from a checkpoint of this run"
      )
    return cls(consumed, ranges)


class Element(NamedTuple):
  """What a step takes, and the records that were replaced in it."""

  batch: Batch
  faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True)
class StepBatches:
  """What one process reads of each step; picklable, safe in many threads.

  Attributes:
    records: what the steps consume.
    batches: K, batches a step.
    batch_size: B, of the whole run.
    rows: the rows of each batch that this process computes.
    image_shape: (R, R, C).
    labelled: else all labels are 0.
  """

  records: Records
  batches: int
  batch_size: int
  rows: Sequence[int]
  image_shape: tuple[int, int, int]
  labelled: bool

  @property
  def records_a_step(self) -> int:
    """Over all processes."""
    return self.batches * self.batch_size

  @property
  def images_shape(self) -> tuple[int, ...]:
    """Of a step's images here: [K, rows, R, R, C] uint8."""
    return (self.batches, len(self.rows), *self.image_shape)

  def steps_from(self, start: Position) -> int:
    """How many there are: an endless stream's places are 62 bits."""
    return (Position.END - start.consumed) // self.records_a_step

  def read(self, start: Position, step: int) -> Element:
    """Reads the step that comes so many steps after a position."""
    images = np.empty(self.images_shape, np.uint8)
    labels, faults = self.read_into(start, step, images)
    return Element(Batch(images, labels), faults)

  def read_into(
    self, start: Position, step: int, images: np.ndarray
  ) -> tuple[np.ndarray, tuple[Fault, ...]]:
    """`read` into images of `images_shape`: labels [K, rows] int32, faults."""
    first = start.consumed + step * self.records_a_step
    offsets = np.arange(self.batches)[:, None] * self.batch_size
    consumed = first + offsets + np.array(self.rows)
    labels = np.zeros(consumed.size, np.int32)
    faults = self.records.read_into(
      start.of(consumed.ravel()),
      images.reshape(consumed.size, *self.image_shape),
      labels,
    )
    if not self.labelled:
      labels = np.zeros_like(labels)
    return labels.reshape(consumed.shape), faults
