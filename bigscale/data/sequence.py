"""Records by position in the stream: which, how read, and what in their place.

Everything is a hash of (seed, position), see `pipeline`.
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
# A source of which so many random records in a row are bad has no others.
_REPLACEMENTS = 16


class Fault(NamedTuple):
  """A record that could not be used, and was replaced.

  Attributes:
    source: `name` of its source.
    index: of the record in it.
    reason: what is wrong with it.
    part: number of the source in the run's mixture; 0 where there is none.
  """

  source: str
  index: int
  reason: str
  part: int


@dataclasses.dataclass(frozen=True)
class Records:
  """The endless sequence of records, by position.

  Attributes:
    mix: the sources, their shares and labels.
    orders: in which order each is read.
    seed: of flips, of labels and of replacements.
    spec: the rest.
  """

  mix: SourceMix
  orders: tuple[Order, ...]
  seed: int
  spec: DataSpec

  def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source and record of positions [N]: two arrays [N] int64."""
    which, places = self.mix.deal(np.asarray(positions, np.int64))
    if len(self.orders) == 1:
      return which, self.orders[0].indices(places)
    indices = np.empty_like(places)
    for number, order in enumerate(self.orders):
      mine = which == number
      indices[mine] = order.indices(places[mine])
    return which, indices

  def read_into(
    self, positions: np.ndarray, images: np.ndarray, labels: np.ndarray
  ) -> tuple[Fault, ...]:
    """Reads positions [N] into images [N, R, R, C] uint8 and labels [N] int32.

    Returns:
      What was replaced on the way.

    Raises:
      BadRecordError: a record cannot be used and may not be replaced.
    """
    which, indices = self.locate(positions)
    flips = self._bits(_FLIP, positions) >> np.uint64(63)
    flips = (flips > 0) & self.spec.flip
    choices = self._bits(_LABEL, positions)
    # Lists: to take an element of an array costs several times as much.
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
    """Reads a record, or one in its place."""
    source = self.mix.sources[number]
    tried = [index]
    for turn in range(_REPLACEMENTS):
      try:
        return source.read(tried[-1])
      except BadRecordError as error:
        if self.spec.bad_records == "error":
          raise
        faults.append(Fault(error.source, error.index, error.reason, number))
        bits = self._bits(_REPLACE + turn, np.array([position]))
        tried.append(int(bits[0] % np.uint64(len(source))))
    raise DataError(
      f"records {tried[:-1]} of {source!r} cannot be used, all that were tried "
      f"for position {position}: {faults[-1].reason}; mend them: 'bigscale "
      "data verify PATH' lists what is wrong"
    )

  def _bits(self, use: int, positions: np.ndarray) -> np.ndarray:
    return hashing.random_bits(self.seed, use, positions)
