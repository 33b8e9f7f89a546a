"""Divides sources that have no splits into train and held-out records."""

import zlib
from collections.abc import Iterable

import numpy as np

from bigscale.data import hashing
from bigscale.data.manifest import DataError, EmptySplitError, Split

HELDOUT_FRACTION = 0.05
# Larger labels are probably ids or dates. Their names would fill the memory.
MOST_CLASSES = 1 << 20

SPLITS: tuple[Split, ...] = ("train", "heldout")
_HELDOUT = 0x4E1D  # `use` argument of `hashing.random_bits`.


def check_split(split: str) -> None:
  """Raises `DataError` unless `split` is `train` or `heldout`."""
  if split not in SPLITS:
    raise DataError(f"split={split!r} must be 'train' or 'heldout'")


def places_of(names: Iterable[str]) -> np.ndarray:
  """Hashes names to indices [N] int64 for `held_out`."""
  places = (zlib.crc32(name.encode("utf-8", "replace")) for name in names)
  return np.fromiter(places, np.int64)


def held_out(places: np.ndarray, fraction: float) -> np.ndarray:
  """Selects a fraction of the records, and of every class, to hold out.

  The fraction is approximate. The decision for each record depends on its own
  index alone, so adding records does not move others between the splits.

  Args:
    places: non-negative indices or hashes of the records, of any shape.
    fraction: fraction of all records, in [0, 1].

  Returns:
    bool, the shape of `places`, True for held-out records.

  Raises:
    DataError: the fraction is out of range.
  """
  if not 0 <= fraction <= 1:
    raise DataError(
      f"heldout_fraction={fraction} must lie in [0, 1]; 0.05 is usual"
    )
  # 53 bits, the precision of a float.
  bits = hashing.random_bits(0, _HELDOUT, places) >> np.uint64(11)
  return bits < np.uint64(round(fraction * 2**53))


def rows_of(split: Split, heldout: np.ndarray, what: str) -> np.ndarray:
  """Returns the indices of one split's records.

  Args:
    split: `train` or `heldout`.
    heldout: [N] bool, True for held-out records.
    what: name of the source, for messages.

  Raises:
    DataError: the split is unknown.
    EmptySplitError: the split would be empty.
  """
  check_split(split)
  rows = np.flatnonzero(heldout == (split == "heldout"))
  if not len(rows):
    raise EmptySplitError(
      f"{what} has {len(heldout)} images, but none is in the {split} split; "
      "add images, or change heldout_fraction"
    )
  return rows


def number_names(count: int, what: str = "the set") -> tuple[str, ...]:
  """Returns names for numbered classes: "0", "1" and so on.

  Args:
    count: number of classes.
    what: name of the source of the labels, for messages.

  Raises:
    DataError: there are more than `MOST_CLASSES` classes.
  """
  if count > MOST_CLASSES:
    raise DataError(
      f"{what} has label {count - 1}, which would make {count:,} classes, but "
      f"at most {MOST_CLASSES:,} are allowed; renumber the classes from 0"
    )
  return tuple(str(number) for number in range(count))


def check_index(index: int, records: int) -> None:
  """Raises `IndexError` unless `index` lies in [0, records)."""
  if not 0 <= index < records:
    raise IndexError(f"index {index} does not lie in [0, {records})")
