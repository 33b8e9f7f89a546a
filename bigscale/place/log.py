"""Reads logs of JSON lines: a file on a disk, a file or its parts on a bucket.

An object on a bucket cannot be appended to. A run therefore writes the lines of
`NAME.jsonl` as parts `NAME/LEASE-NUMBER.jsonl`. Part 0 of a lease repeats all
lines from before. It replaces the parts of smaller leases, which another
process may still be writing, and `NAME.jsonl`. When a run is complete, its
parts are merged into `NAME.jsonl`, and the folder has the files that it would
have on a disk.
"""

import concurrent.futures
import re
from collections.abc import Sequence

from bigscale.place.base import Place

_PART = re.compile(r"(\d{6})-(\d{6})\.jsonl")
_READERS = 16
# A run that merges its parts deletes them while they are read.
_ATTEMPTS = 5


def file_name(name: str) -> str:
  """Returns the name of the file of a log."""
  return f"{name}.jsonl"


def part_name(name: str, lease: int, number: int) -> str:
  """Returns the name of a part of a log."""
  return f"{name}/{lease:06d}-{number:06d}.jsonl"


def all_parts(place: Place, name: str) -> list[str]:
  """Returns the names of all parts of a log, in order."""
  listed = [entry.name for entry in place.list(f"{name}/")]
  return sorted(each for each in listed if _key(each))


def read(place: Place, name: str) -> bytes | None:
  """Returns the lines of a log; None if there are none.

  Args:
    place: folder of the run.
    name: name of the log: metrics, events.

  Raises:
    OSError: if it cannot be read.
  """
  for attempt in range(_ATTEMPTS):
    try:
      return _read_once(place, name)
    except FileNotFoundError:
      if attempt + 1 == _ATTEMPTS:
        raise
  return None


def tail(place: Place, name: str, size: int) -> bytes:
  """Returns the last lines of a log, at least `size` bytes if it has them.

  Raises:
    OSError: if it cannot be read.
  """
  found, parts = b"", _valid(all_parts(place, name))
  while parts and len(found) < size:
    found = place.read(parts.pop()) + found
  if found or parts:
    return found
  entry = place.entry(file_name(name))
  if entry is None:
    return b""
  return place.read_range(entry.name, max(0, entry.size - size), entry.size)


def _read_once(place: Place, name: str) -> bytes | None:
  parts = _valid(all_parts(place, name))
  if parts:
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      return b"".join(pool.map(place.read, parts))
  if place.entry(file_name(name)) is None:
    return None
  return place.read(file_name(name))


def _valid(parts: Sequence[str]) -> list[str]:
  """Returns the parts from the newest part 0 on."""
  leases = [lease for lease, number in map(_key, parts) if number == 0]
  newest = max(leases, default=None)
  return [part for part in parts if _key(part)[0] == newest]


def _key(part: str) -> tuple[int, int] | None:
  """Returns lease and number of a part; None for another file."""
  found = _PART.fullmatch(part.rpartition("/")[2])
  return (int(found[1]), int(found[2])) if found else None
