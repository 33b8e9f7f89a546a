"""What is trained on and what is held out, in sources that come undivided."""

import zlib
from collections.abc import Iterable

import numpy as np

from bigscale.data import hashing
from bigscale.data.manifest import DataError, EmptySplitError, Split

HELDOUT_FRACTION = 0.05
# A larger label is an id, a date or the like, and its names fill the memory.
MOST_CLASSES = 1 << 20

SPLITS: tuple[Split, ...] = ("train", "heldout")
_HELDOUT = 0x4E1D  # the use of `hashing.random_bits`


def check_split(split: str) -> None:
  """Raises `DataError` unless it is `train` or `heldout`."""
  if split not in SPLITS:
    raise DataError(f"split={split!r} must be 'train' or 'heldout'")


def places_of(names: Iterable[str]) -> np.ndarray:
  """Places [N] int64, for `held_out`, of records that have names."""
  places = (zlib.crc32(name.encode("utf-8", "replace")) for name in names)
  return np.fromiter(places, np.int64)


def held_out(places: np.ndarray, fraction: float) -> np.ndarray:
  """Which records are held out: about this share, also of every class.

  Each is decided by its own place and nothing else, so that records that are
  added move no other between the splits.

  Args:
    places: integers of any shape, 0 or more, that name the records.
    fraction: of all records, in [0, 1].

  Returns:
    bool, the shape of `places`, True where held out.

  Raises:
    DataError: there is no such fraction.
  """
  if not 0 <= fraction <= 1:
    raise DataError(
      f"heldout_fraction={fraction} does not lie in [0, 1]; 0.05 is usual"
    )
  # 53 bits: all that a float tells apart.
  bits = hashing.random_bits(0, _HELDOUT, places) >> np.uint64(11)
  return bits < np.uint64(round(fraction * 2**53))


def rows_of(split: Split, heldout: np.ndarray, what: str) -> np.ndarray:
  """Indices of one split's records.

  Args:
    split: `train` or `heldout`.
    heldout: [N] bool, True where held out.
    what: is split, for messages.

  Raises:
    DataError: the split is unknown.
    EmptySplitError: it would be empty.
  """
  check_split(split)
  rows = np.flatnonzero(heldout == (split == "heldout"))
  if not len(rows):
    raise EmptySplitError(
      f"{what} has {len(heldout)} images, of which none falls to the {split} "
      "split; add images, or change heldout_fraction"
    )
  return rows


def number_names(count: int, what: str = "the set") -> tuple[str, ...]:
  """Names of classes that have none: "0", "1" and so on.

  Args:
    count: of classes.
    what: has the labels, for messages.

  Raises:
    DataError: there are more than `MOST_CLASSES`: numbers that are no labels.
  """
  if count > MOST_CLASSES:
    raise DataError(
      f"{what} has label {count - 1}, which would make {count:,} classes, and "
      f"{MOST_CLASSES:,} are the most; number the classes anew, from 0"
    )
  return tuple(str(number) for number in range(count))


def check_index(index: int, records: int) -> None:
  """Raises `IndexError` unless `index` lies in [0, records)."""
  if not 0 <= index < records:
    raise IndexError(f"index {index} does not lie in [0, {records})")
