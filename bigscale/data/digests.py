"""Digests of files, kept between processes in the cache folder.

A file of the cache belongs to one folder of data. It appears whole or not at
all; one that is damaged counts as missing, and where nothing can be written,
the next process reads the data again. Two processes that write at once lose
each other's digests, never mix them up.
"""

import hashlib
import os
import re
from collections.abc import Mapping

import numpy as np

from bigscale.data import cache_folder

SIZE = 16  # bytes of a digest and of a key

# Of one cache file: 128 MB.
_MOST_KEPT = 4_000_000
# What this process knows, for where the cache cannot be written.
_known: dict[bytes, bytes] = {}


class Digests:
  """The kept digests of files below one folder."""

  def __init__(self, root: str) -> None:
    """Reads what is kept.

    Args:
      root: the folder, or the first of some files.
    """
    place = root if "://" in root else os.path.realpath(root)
    name = re.sub(r"[^A-Za-z0-9]+", "_", os.path.basename(place))[:40]
    text = place.encode("utf-8", "surrogateescape")
    self._own = hashlib.sha256(text).digest()
    self._path = os.path.join(
      cache_folder.directory(), f"digests-{name}-{self._own.hex()[:16]}.npz"
    )
    self._kept = _load(self._path)

  def key_of(self, path: str, *state: object) -> bytes:
    """Returns what a digest is kept by.

    Args:
      path: of a file, below the folder or whole.
      *state: all that tells whether it has changed.
    """
    text = repr((path, *state)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(self._own + text, digest_size=SIZE).digest()

  def get(self, key: bytes) -> bytes | None:
    """Returns a digest, or None where it is not kept."""
    return self._kept.get(key) or _known.get(key)

  def add(self, found: Mapping[bytes, bytes]) -> None:
    """Keeps digests by their keys."""
    if not found:
      return
    if len(_known) + len(found) > _MOST_KEPT:
      _known.clear()
    _known.update(found)
    self._kept |= found
    if len(self._kept) > _MOST_KEPT:
      self._kept = dict(found)
    _save(self._path, self._kept)


def _load(path: str) -> dict[bytes, bytes]:
  arrays = cache_folder.read(path)
  if arrays is None:
    return {}
  parts = []
  for name in ("keys", "values"):
    array = arrays.get(name, np.empty(0))
    if array.dtype != np.uint8 or array.shape[1:] != (SIZE,):
      cache_folder.discard(path, f"{name} are {array.dtype} {array.shape}")
      return {}
    data = array.tobytes()
    parts.append([data[i : i + SIZE] for i in range(0, len(data), SIZE)])
  return dict(zip(*parts, strict=False))


def _save(path: str, kept: Mapping[bytes, bytes]) -> None:
  keys, values = (
    np.frombuffer(b"".join(part), np.uint8).reshape(-1, SIZE)
    for part in (kept.keys(), kept.values())
  )
  cache_folder.write(path, {"keys": keys, "values": values})
