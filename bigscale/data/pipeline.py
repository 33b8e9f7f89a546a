"""The stream of real images: a pure function of (seed, record position).

Position p of the stream is record permutation_{seed,e}[p mod n] of epoch
e = p // n, mirrored or not by a hash of (seed, p). Nothing else enters: not the
number of devices or processes, not the batch size, not the prefetch. A batch
is the positions that follow what has been consumed, and may span epochs; each
process computes its own rows of it. So the state of a stream is one number,
the same on every process, and any number of processes resumes it.

One Grain element is a whole step's batch: reading record by record through
Grain costs several times as much.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import grain.experimental
import numpy as np

from bigscale.data import hashing, transforms
from bigscale.data.manifest import DataError
from bigscale.data.sources import Source, open_source
from bigscale.spec import DataSpec
from bigscale.types import Batch

_PREFETCH_THREADS = 2
_SHUFFLE = 0x53485546
_FLIP = 0x464C4950
_SHUFFLE_ROUNDS = 4  # of Grain's block cipher, as in MapDataset.shuffle
_END = 1 << 62  # positions stay below it, and so fit int64


@dataclasses.dataclass(frozen=True)
class Records:
  """The endless sequence of records, by position.

  Attributes:
    source: what is read.
    seed: of the order and the flips.
    shuffle: another order every epoch; else the order of the source.
    flip: mirror half of the images.
    resolution: side of the images, pixels.
    channels: of the images.
  """

  source: Source
  seed: int
  shuffle: bool
  flip: bool
  resolution: int
  channels: int

  def indices(self, positions: np.ndarray) -> np.ndarray:
    """Maps positions [N] to indices [N] int64 into the source."""
    n = len(self.source)
    epochs, offsets = np.divmod(np.asarray(positions, np.int64), n)
    if not self.shuffle:
      return offsets
    seeds = hashing.random_bits(self.seed, _SHUFFLE, epochs) >> np.uint64(32)
    shuffled = [
      grain.experimental.index_shuffle(offset, n - 1, seed, _SHUFFLE_ROUNDS)
      for offset, seed in zip(offsets.tolist(), seeds.tolist(), strict=True)
    ]
    return np.array(shuffled, np.int64)

  def flipped(self, positions: np.ndarray) -> np.ndarray:
    """Whether the images at positions [N] are mirrored: [N] bool."""
    bits = hashing.random_bits(self.seed, _FLIP, positions)
    return (bits >> np.uint64(63)).astype(bool)

  def read(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads positions [N]: images [N, R, R, C] uint8, labels [N] int32."""
    images, labels = self.source.read(self.indices(positions))
    images = transforms.fit(images, self.resolution, self.channels)
    if self.flip:
      images = transforms.flip(images, self.flipped(positions))
    return images, labels


@dataclasses.dataclass(frozen=True)
class StepBatches:
  """A Grain source whose element i is the batch of the i-th step.

  Attributes:
    records: what the steps consume.
    start: position of the first step's first record.
    batches: K, batches a step.
    batch_size: B, of the whole run.
    rows: the rows of each batch that this process computes.
    labelled: else all labels are 0.
  """

  records: Records
  start: int
  batches: int
  batch_size: int
  rows: Sequence[int]
  labelled: bool

  def __len__(self) -> int:
    return (_END - self.start) // (self.batches * self.batch_size)

  def __getitem__(self, step: int) -> Batch:
    first = self.start + step * self.batches * self.batch_size
    offsets = np.arange(self.batches)[:, None] * self.batch_size
    positions = first + offsets + np.array(self.rows)
    images, labels = self.records.read(positions.ravel())
    if not self.labelled:
      labels = np.zeros_like(labels)
    shape = positions.shape
    return Batch(
      images.reshape(*shape, *images.shape[1:]), labels.reshape(shape)
    )


class Stream:
  """An endless iterator of one process's batches (see `make`).

  Its state is `{"records_consumed": N}`, N counting the records of all
  processes. After an error the stream stands where it stood before.
  """

  def __init__(self, batches: StepBatches, prefetch: int) -> None:
    self._batches = batches
    self._prefetch = prefetch
    self._start_at(batches.start)

  @property
  def source(self) -> Source:
    """What the stream reads; its `identity` belongs in checkpoints."""
    return self._batches.records.source

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """The next step's `Batch` of numpy arrays.

    Raises:
      DataError: a record cannot be read.
      ValueError: the stream is closed.
    """
    try:
      batch = next(self._elements)
    except Exception:
      # Grain drops the failed element and would return the one after it.
      if not self._closed:
        self.set_state(self.get_state())
      raise
    self._consumed += self._batches.batches * self._batches.batch_size
    return batch

  def get_state(self) -> dict[str, int]:
    """The position, as plain JSON, equal on all processes."""
    return {"records_consumed": self._consumed}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Moves to a position, whatever run shape it was saved by.

    Raises:
      DataError: `state` is not what `get_state` gave.
    """
    consumed = state.get("records_consumed")
    if type(consumed) is not int or not 0 <= consumed < _END:
      raise DataError(
        f"a stream cannot resume from {dict(state)!r}: records_consumed must "
        "be a whole number from 0; restore it from a checkpoint of this run"
      )
    self._elements.close()
    self._start_at(consumed)

  def close(self) -> None:
    """Stops reading ahead; no more batches until `set_state`."""
    self._closed = True
    self._elements.close()

  def _start_at(self, consumed: int) -> None:
    self._closed = False
    self._consumed = consumed
    batches = dataclasses.replace(self._batches, start=consumed)
    options = grain.ReadOptions(
      num_threads=min(_PREFETCH_THREADS, self._prefetch),
      prefetch_buffer_size=self._prefetch,
    )
    dataset = grain.MapDataset.source(batches).to_iter_dataset(options)
    self._elements = iter(dataset)


def make(
  spec: DataSpec,
  *,
  resolution: int,
  channels: int,
  num_classes: int,
  global_batch_size: int,
  batches_per_step: int,
  seed: int,
  rows: Sequence[int] | None = None,
) -> Stream:
  """Opens this process's stream of training images.

  Args:
    spec: source, shuffling, flips and prefetch.
    resolution: side of the model's images, pixels.
    channels: of the model's images, 1 or 3.
    num_classes: of the model; 0 makes all labels 0.
    global_batch_size: B, images of one batch over all processes.
    batches_per_step: K, see `RunSpec.batches_per_step`.
    seed: of the order and the flips.
    rows: which of the B this process reads, in order; all where None.

  Returns:
    A stream of `Batch`: images [K, len(rows), R, R, C] uint8 and labels
    [K, len(rows)] int32, numpy arrays.

  Raises:
    DataError: the source cannot be opened or does not fit the model, or there
      are no such rows.
  """
  rows = tuple(range(global_batch_size) if rows is None else map(int, rows))
  if not rows or min(rows) < 0 or max(rows) >= global_batch_size:
    raise DataError(
      f"rows={list(rows)} of a batch of {global_batch_size}: name at least "
      f"one, from 0 to {global_batch_size - 1}"
    )
  if batches_per_step < 1:
    raise DataError(f"batches_per_step={batches_per_step} must be 1 or more")
  source = open_source(spec.source, "train")
  transforms.check_channels(source.image_shape[-1], channels)
  _check_labels(source, num_classes)
  records = Records(source, seed, spec.shuffle, spec.flip, resolution, channels)
  batches = StepBatches(
    records, 0, batches_per_step, global_batch_size, rows, num_classes > 0
  )
  return Stream(batches, spec.prefetch)


def _check_labels(source: Source, num_classes: int) -> None:
  if num_classes and not source.num_classes:
    raise DataError(
      f"model.num_classes={num_classes}, but {source!r} has no labels; set "
      "model.num_classes=0 or take a labelled source"
    )
  if num_classes and num_classes != source.num_classes:
    raise DataError(
      f"model.num_classes={num_classes}, but the labels of {source!r} run "
      f"from 0 to {source.num_classes - 1}; set "
      f"model.num_classes={source.num_classes}, or 0 to train without labels"
    )
