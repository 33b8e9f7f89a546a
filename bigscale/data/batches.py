"""Stream positions, and the batches of each step after a position."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.sequence import Fault, Records
from bigscale.types import Batch


@dataclasses.dataclass(frozen=True)
class Position:
  """A position in a stream that all processes share.

  Attributes:
    consumed: number of records used so far.
    skipped: ranges [start, end) of indices that are never read, sorted,
      disjoint and not adjacent.
  """

  END: ClassVar[int] = 1 << 62  # Indices stay below it, so they fit in int64.

  consumed: int = 0
  skipped: tuple[tuple[int, int], ...] = ()

  def of(self, consumed: np.ndarray) -> np.ndarray:
    """Maps counts of consumed records to stream indices: [N] int64."""
    consumed = np.asarray(consumed, np.int64)
    if not self.skipped:
      return consumed
    starts, ends = np.array(self.skipped, np.int64).T
    lengths = np.cumsum(ends - starts)
    # Number of records consumed before each skipped range.
    before = starts - np.concatenate([[0], lengths[:-1]])
    passed = np.searchsorted(before, consumed, side="right")
    return consumed + np.concatenate([[0], lengths])[passed]

  def after(self, records: int) -> "Position":
    """Returns the position after `records` more records."""
    return dataclasses.replace(self, consumed=self.consumed + records)

  def next_range(self, records: int) -> tuple[int, int]:
    """Returns the index range [start, end) of the next `records` records."""
    if records < 1:
      raise DataError(f"cannot skip {records} records; skip 1 or more")
    first, last = self.of(
      np.array([self.consumed, self.consumed + records - 1])
    ).tolist()
    return first, last + 1

  def without(self, start: int, end: int) -> "Position":
    """Returns the same position with indices [start, end) skipped."""
    ranges = sorted([*self.skipped, (start, end)])
    joined = [ranges[0]]
    for begin, stop in ranges[1:]:
      if begin <= joined[-1][1]:
        joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
      else:
        joined.append((begin, stop))
    return dataclasses.replace(self, skipped=tuple(joined))

  def to_json(self) -> dict[str, Any]:
    """Returns the position as JSON values."""
    return {
      "records_consumed": self.consumed,
      "skipped": [list(places) for places in self.skipped],
    }

  @classmethod
  def from_json(cls, state: Mapping[str, Any]) -> "Position":
    """Reads the output of `to_json`.

    Raises:
      DataError: `state` is not an output of `to_json`.
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
        "be a whole number from 0, and skipped must be a sorted list of index "
        "ranges; restore the state from a checkpoint of this run"
      )
    return cls(consumed, ranges)


class Element(NamedTuple):
  """The batch of a step, and the records that were replaced in it."""

  batch: Batch
  faults: tuple[Fault, ...]


@dataclasses.dataclass(frozen=True)
class StepBatches:
  """Reads one process's share of each step; picklable and thread-safe.

  Attributes:
    records: sequence of records that the steps consume.
    batches: K, batches per step.
    batch_size: B, the batch size over all processes.
    rows: indices of the batch rows that this process computes.
    image_shape: (R, R, C).
    labeled: whether labels are read; otherwise all labels are 0.
  """

  records: Records
  batches: int
  batch_size: int
  rows: Sequence[int]
  image_shape: tuple[int, int, int]
  labeled: bool

  @property
  def records_a_step(self) -> int:
    """Records per step over all processes."""
    return self.batches * self.batch_size

  @property
  def images_shape(self) -> tuple[int, ...]:
    """Shape of this process's images of a step: [K, rows, R, R, C] uint8."""
    return (self.batches, len(self.rows), *self.image_shape)

  def steps_from(self, start: Position) -> int:
    """Returns the number of steps left before the largest stream index."""
    return (Position.END - start.consumed) // self.records_a_step

  def read(self, start: Position, step: int) -> Element:
    """Reads the step that is `step` steps after `start`."""
    images = np.empty(self.images_shape, np.uint8)
    labels, faults = self.read_into(start, step, images)
    return Element(Batch(images, labels), faults)

  def read_into(
    self, start: Position, step: int, images: np.ndarray
  ) -> tuple[np.ndarray, tuple[Fault, ...]]:
    """Reads a step's images into `images`, an array of `images_shape`.

    Returns:
      The labels [K, rows] int32, and the records that were replaced.
    """
    first = start.consumed + step * self.records_a_step
    offsets = np.arange(self.batches)[:, None] * self.batch_size
    consumed = first + offsets + np.array(self.rows)
    labels = np.zeros(consumed.size, np.int32)
    self.records.fetch_ahead(start.of(consumed.ravel()))
    faults = self.records.read_into(
      start.of(consumed.ravel()),
      images.reshape(consumed.size, *self.image_shape),
      labels,
    )
    if not self.labeled:
      labels = np.zeros_like(labels)
    return labels.reshape(consumed.shape), faults
