"""What was costly to compute, kept between processes as `.npz` files.

Files appear whole or not at all, and one that cannot be read counts as missing:
caching may fail, a run may not fail for it.
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
# What an .npz that is cut short, damaged or none at all may raise.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile)

# More than what a full disk still takes of an empty file.
_PROBE_BYTES = 2**16

_log = logging.getLogger(__name__)


def directory(cache_dir: str | None = None) -> str:
  """The cache: `cache_dir`, else $BIGSCALE_CACHE, else ~/.cache/bigscale."""
  chosen = cache_dir or os.environ.get(ENVIRONMENT)
  # Of a variable no shell has expanded ~, where an env file sets it.
  return os.path.expanduser(chosen or "~/.cache/bigscale")


def read(path: str) -> dict[str, np.ndarray] | None:
  """The arrays of a file, or None if there is none that can be read."""
  if not os.path.exists(path):
    return None
  try:
    return load(path)
  except UNREADABLE as error:
    discard(path, str(error))
    return None


def load(path: str) -> dict[str, np.ndarray]:
  """The arrays of a file; raises one of `UNREADABLE` where it is none."""
  # Opened here: numpy leaves a file open that proves to be no archive.
  with open(path, "rb") as file:
    if file.read(2) != b"PK":
      raise ValueError("it is no zip archive")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}


def prepare(cache_dir: str | None = None) -> None:
  """Makes the folder, and warns where nothing new can be kept in it.

  Files that others have put there are used all the same.

  Args:
    cache_dir: see `directory`.

  Raises:
    SpecError: there is no folder, and none can be made.
  """
  folder = directory(cache_dir)
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    raise SpecError(
      f"the cache {folder} cannot be made ({error.strerror or error}); set "
      f"{ENVIRONMENT} to a directory that you may write to"
    ) from error
  try:
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial") as file:
      file.write(b"x" * _PROBE_BYTES)
      file.flush()
  except OSError as error:
    _log.warning(
      "the cache %s cannot be written (%s): what is not there yet is computed "
      "again at every start; set %s to a writable directory with room",
      folder,
      error.strerror or error,
      ENVIRONMENT,
    )


def discard(path: str, reason: str) -> None:
  """Says that a file is not used; what replaces it is computed again."""
  _log.warning(
    "cached file %s is corrupt (%s); computing it again", path, reason
  )


def write(path: str, arrays: Mapping[str, np.ndarray]) -> bool:
  """Writes a file under another name and renames it; False if it cannot."""
  try:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with temporary.replacing(path) as partial, open(partial, "wb") as file:
      np.savez(file, **arrays)
  except OSError as error:
    _log.warning(
      "cannot write %s (%s): continuing without a cache, so the next process "
      "computes it again; set %s to a writable directory",
      path,
      error.strerror or error,
      ENVIRONMENT,
    )
    return False
  return True
