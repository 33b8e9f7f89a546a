"""Reads the records at given stream positions, and replaces unusable ones.

All random choices are hashes of (seed, position), see `pipeline`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from bigscale.data import hashing, transforms
from bigscale.data.manifest import DataError
from bigscale.data.order import Order
from bigscale.data.reading import SourceMix
from bigscale.data.sources import BadRecordError, Record, padding_of
from bigscale.spec import DataSpec

_FLIP = 0x464C4950
_LABEL = 0x4C41424C
_REPLACE = 0x5245504C
# If this many random records in a row are bad, the source is unusable.
_MAX_REPLACEMENTS = 16


class Fault(NamedTuple):
  """An unusable record that was replaced.

  Attributes:
    source: `name` of its source.
    index: index of the record in its source.
    reason: what is wrong with the record.
    part: number of the source in the run's mixture; 0 without a mixture.
  """

  source: str
  index: int
  reason: str
  part: int


@dataclasses.dataclass(frozen=True)
class Records:
  """The endless sequence of records, indexed by position.

  Attributes:
    mix: sources, their shares and labels.
    orders: reading order of each source.
    seed: seed of flips, labels and replacements.
    spec: data spec of the run.
    windows: for each source, the epoch and window whose files were prepared.
  """

  mix: SourceMix
  orders: tuple[Order, ...]
  seed: int
  spec: DataSpec
  windows: dict[int, tuple[int, int]] = dataclasses.field(
    default_factory=dict, compare=False
  )

  def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the source and record of positions [N]: two arrays [N] int64."""
    which, places = self.mix.deal(np.asarray(positions, np.int64))
    if len(self.orders) == 1:
      return which, self.orders[0].indices(places)
    indices = np.empty_like(places)
    for number, order in enumerate(self.orders):
      mine = which == number
      indices[mine] = order.indices(places[mine])
    return which, indices

  def fetch_ahead(self, positions: np.ndarray) -> None:
    """Lets sources in files prepare the present and the next window of files.

    Args:
      positions: [N] positions that are read now.
    """
    which, places = self.mix.deal(np.asarray(positions, np.int64))
    for number, order in enumerate(self.orders):
      mine = places[which == number]
      if len(order.file_records) > 1 and len(mine):
        source = self.mix.sources[number]
        epoch, window = order.window(int(mine.max()))
        if self.windows.get(number) != (epoch, window):
          self.windows[number] = (epoch, window)
          source.fetch_ahead(
            order.files(epoch, window), order.files(epoch, window + 1)
          )

  def read_into(
    self, positions: np.ndarray, images: np.ndarray, labels: np.ndarray
  ) -> tuple[Fault, ...]:
    """Reads positions [N] into images [N, R, R, C] uint8 and labels [N] int32.

    Returns:
      The records that were replaced.

    Raises:
      BadRecordError: a record is unusable and may not be replaced.
      DataError: no usable replacement was found.
    """
    which, indices = self.locate(positions)
    flips = self._bits(_FLIP, positions) >> np.uint64(63)
    flips = (flips > 0) & self.spec.flip
    choices = self._bits(_LABEL, positions)
    # Lists, because reading elements of arrays is several times slower.
    columns = (which, indices, positions, flips, choices)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    paddings = [padding_of(source) for source in self.mix.sources]
    faults: list[Fault] = []
    for row, (number, index, position, flip, choice) in enumerate(rows):
      sample = self._read(number, index, position, faults)
      transforms.fit_into(
        sample.image, images[row], paddings[number], mirrored=flip
      )
      found = self.mix.labels.of(number, sample.labels)
      if found:
        labels[row] = found[choice % len(found)]
    return tuple(faults)

  def _read(
    self, number: int, index: int, position: int, faults: list[Fault]
  ) -> Record:
    """Reads a record, or a replacement if it is unusable."""
    source = self.mix.sources[number]
    tried = [index]
    for turn in range(_MAX_REPLACEMENTS):
      try:
        return source.read(tried[-1])
      except BadRecordError as error:
        if self.spec.bad_records == "error":
          raise
        faults.append(Fault(error.source, error.index, error.reason, number))
        bits = self._bits(_REPLACE + turn, np.array([position]))
        tried.append(int(bits[0] % np.uint64(len(source))))
    raise DataError(
      f"no usable record was found for position {position}: tried records "
      f"{tried[:-1]} of {source!r}, and the last cannot be used: "
      f"{faults[-1].reason}; fix them ('bigscale data verify PATH' lists what "
      "is wrong)"
    )

  def _bits(self, use: int, positions: np.ndarray) -> np.ndarray:
    return hashing.random_bits(self.seed, use, positions)
