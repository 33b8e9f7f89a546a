"""The stream of real images: a pure function of (seed, record position).

The mixture's deal assigns position p of the stream to one source. Let q be the
index of p among the positions of that source, and n the source's size. Then p
reads record permutation_{seed,e}[q mod n] of epoch e = q // n. Hashes of
(seed, p) determine the flip, the label of a record with several labels, and the
replacement of an unreadable record. The stream does not depend on the number of
devices or processes, the batch size or the prefetch.

A batch consists of the positions that follow the consumed ones, and may span
epochs. Each process reads its own rows of it. The state of a stream is one
number and the skipped ranges. It is equal on every process, and any number of
processes can resume from it.

Whole batches are read ahead (`ahead`), in threads or in processes.
"""

import logging
from collections.abc import Sequence

from bigscale.data import transforms
from bigscale.data.batches import StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.order import order_of
from bigscale.data.reading import SourceMix, allowed_bad, open_mix
from bigscale.data.sequence import Records
from bigscale.data.sources import Source
from bigscale.data.stream import Decide, Stream, alone
from bigscale.spec import DataSpec

_log = logging.getLogger(__name__)


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
  processes: int = 1,
  decide: Decide = alone,
) -> Stream:
  """Opens this process's stream of training images.

  Args:
    spec: sources, shuffling, flips and prefetch.
    resolution: side of the model's images in pixels.
    channels: channels of the model's images, 1 or 3.
    num_classes: number of classes of the model; 0 makes all labels 0.
    global_batch_size: B, images per batch over all processes.
    batches_per_step: K, see `RunSpec.batches_per_step`.
    seed: seed of the order and the flips.
    rows: indices of the B images that this process reads, in order; None reads
      all.
    processes: number of processes that read the stream together.
    decide: calls its argument on one process, and returns the result on all.

  Returns:
    A stream of `Batch`: images [K, len(rows), R, R, C] uint8 and labels
    [K, len(rows)] int32, numpy arrays.

  Raises:
    DataError: a source cannot be opened or does not fit the model, `rows` is
      invalid, or there are fewer records than processes.
  """
  rows = tuple(range(global_batch_size) if rows is None else map(int, rows))
  if not rows or min(rows) < 0 or max(rows) >= global_batch_size:
    raise DataError(
      f"rows={list(rows)} is invalid for a batch of {global_batch_size}: pass "
      f"one or more row numbers from 0 to {global_batch_size - 1}"
    )
  if batches_per_step < 1:
    raise DataError(f"batches_per_step={batches_per_step} must be 1 or more")
  transforms.check_channels(3, channels)
  mix = open_mix(spec, "train", seed)
  _check_count(mix, processes)
  for source in mix.sources:
    _check_files(source, spec)
  _check_labels(mix, num_classes)
  orders = tuple(
    order_of(source, spec.shuffle_files, seed ^ number << 32, spec.shuffle)
    for number, source in enumerate(mix.sources)
  )
  for source, order in zip(mix.sources, orders, strict=True):
    source.check_room(order.files_at_once)
  batches = StepBatches(
    records=Records(mix, orders, seed, spec),
    batches=batches_per_step,
    batch_size=global_batch_size,
    rows=rows,
    image_shape=(resolution, resolution, channels),
    labeled=num_classes > 0,
  )
  return Stream(batches, spec, decide)


def _check_count(mix: SourceMix, processes: int) -> None:
  """Raises `DataError` if there are fewer records than processes."""
  records = sum(len(source) for source in mix.sources)
  if records < processes:
    names = " and ".join(map(repr, mix.sources))
    raise DataError(
      f"{names} has {records} training records, but {processes} processes need "
      f"at least one each; start on at most {records} hosts, or use more data "
      "(data.source, data.subset, data.classes)"
    )


def _check_files(source: Source, spec: DataSpec) -> None:
  """Raises `DataError` if more records are missing than may be replaced."""
  missing = source.check()
  lost = sum(file.records for file in missing)
  if spec.bad_records == "error" or lost > allowed_bad(spec, len(source)):
    for file in missing:
      raise DataError(file.message)
  for file in missing:
    _log.warning("replacing the records of a bad file: %s", file.message)


def _check_labels(mix: SourceMix, num_classes: int) -> None:
  found = len(mix.labels.class_names)
  names = " and ".join(map(repr, mix.sources))
  if num_classes and not found:
    raise DataError(
      f"model.num_classes={num_classes}, but {names} has no labels; set "
      "model.num_classes=0 or use a labeled source"
    )
  if num_classes and num_classes != found:
    raise DataError(
      f"model.num_classes={num_classes}, but the labels of {names} run "
      f"from 0 to {found - 1}; set "
      f"model.num_classes={found}, or 0 to train without labels"
    )
