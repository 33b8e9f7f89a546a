"""The batches of a stream, step by step from any position."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigscale.data.position import Position
from bigscale.data.sequence import Fault, Records
from bigscale.types import Batch


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
