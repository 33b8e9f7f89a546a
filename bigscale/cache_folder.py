"""A cache of expensive results, shared between processes as `.npz` files.

Files are written atomically. A file that cannot be read counts as missing, and
write errors are only logged, so caching never ends a run.
"""

import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping

import numpy as np

from bigscale import temporary
from bigscale.spec import SpecError

ENVIRONMENT = "BIGSCALE_CACHE"
# Errors raised for a file that is truncated, damaged or not an .npz.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)

# A full disk may still accept a small file, so the probe writes more.
_PROBE_BYTES = 2**16

_log = logging.getLogger(__name__)


def directory(cache_dir: str | None = None) -> str:
  """Returns `cache_dir`, else $BIGSCALE_CACHE, else ~/.cache/bigscale."""
  chosen = cache_dir or os.environ.get(ENVIRONMENT)
  # An env file may set the variable without a shell that expands ~.
  return os.path.expanduser(chosen or "~/.cache/bigscale")


def read(path: str) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a file, or None if it cannot be read."""
  if not os.path.exists(path):
    return None
  try:
    return load(path)
  except UNREADABLE as error:
    discard(path, str(error))
    return None


def load(path: str) -> dict[str, np.ndarray]:
  """Returns the arrays of a file; raises one of `UNREADABLE` if it is bad."""
  # np.load(path) leaves the file open if it is not an archive.
  with open(path, "rb") as file:
    if file.read(2) != b"PK":
      raise ValueError("not a zip archive")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}


def prepare(cache_dir: str | None = None) -> None:
  """Creates the cache folder and warns if it is not writable.

  Existing files in a read-only cache are still used.

  Args:
    cache_dir: see `directory`.

  Raises:
    SpecError: if the folder does not exist and cannot be created.
  """
  folder = directory(cache_dir)
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise SpecError(
      f"cannot create the cache {folder} ({error.strerror or error}); set "
      f"{ENVIRONMENT} to a writable directory"
    ) from error
  try:
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial") as file:
      file.write(b"x" * _PROBE_BYTES)
      file.flush()
  except OSError as error:
    _log.warning(
      "cannot write to the cache %s (%s): results that are not cached yet are "
      "recomputed at every start; set %s to a writable directory with free "
      "space",
      folder,
      error.strerror or error,
      ENVIRONMENT,
    )


def discard(path: str, reason: str) -> None:
  """Warns that a cached file is ignored and its content recomputed."""
  _log.warning("cached file %s is corrupt (%s); recomputing it", path, reason)


def write(path: str, arrays: Mapping[str, np.ndarray]) -> bool:
  """Writes a file atomically; returns False if it cannot be written."""
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with temporary.replacing(path) as partial, open(partial, "wb") as file:
      np.savez(file, **arrays)
  except OSError as error:
    _log.warning(
      "cannot write %s (%s): continuing without a cache, so the next process "
      "recomputes it; set %s to a writable directory",
      path,
      error.strerror or error,
      ENVIRONMENT,
    )
    return False
  return True
