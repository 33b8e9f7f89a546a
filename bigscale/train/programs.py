"""Keeps compiled programs in a run's folder, so a restart loads them.

This is JAX's persistent compilation cache, in the folder `programs/`. A program
is found by a hash of its code, its options, and the versions and kinds of
compiler and devices.
"""

import hashlib
import logging
import pathlib
import platform
import zlib
from typing import Self

import jax
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from bigscale.place import is_remote
from bigscale.spec import RunSpec

FOLDER = "programs"
_log = logging.getLogger(__name__)

# A restart compiles dozens of small programs: together they take as long as a
# large one.
_SETTINGS = {
  "jax_persistent_cache_min_compile_time_secs": 0.1,
  "jax_persistent_cache_min_entry_size_bytes": 0,
}
# First bytes of a zlib stream, as written by JAX without zstandard.
_ZLIB = b"\x78"


class ProgramCache:
  """The compilation cache of a run, in use from `open` to `close`."""

  def __init__(self, workdir: epath.Path, spec: RunSpec) -> None:
    """Initializes the cache without using it.

    If JAX already has a cache ($JAX_COMPILATION_CACHE_DIR), the run uses that
    one.

    Args:
      workdir: folder of the run.
      spec: spec of the run, which can turn the cache off.
    """
    self._folder = workdir / FOLDER
    self._enabled = (
      spec.operations.keep_programs and not jax.config.jax_compilation_cache_dir
    )
    self._before: dict[str, object] = {}

  def open(self) -> Self:
    """Uses the cache for all programs from here on; returns itself."""
    if not self._enabled:
      return self
    folder = self._folder / _machine()
    # Only process 0 writes programs. On a bucket, objects are always complete.
    if jax.process_index() == 0 and not is_remote(folder):
      remove_incomplete(folder)
    wanted = {"jax_compilation_cache_dir": str(folder), **_SETTINGS}
    for name, value in wanted.items():
      self._before[name] = getattr(jax.config, name)
      jax.config.update(name, value)
    return self

  def close(self) -> None:
    """Returns to JAX's settings before `open`."""
    if not self._before:
      return
    for name, value in self._before.items():
      jax.config.update(name, value)
    self._before = {}
    # Otherwise, JAX would keep using the folder.
    compilation_cache.reset_cache()


def remove_incomplete(folder: epath.Path) -> None:
  """Removes cached programs that a killed process has not written completely.

  JAX would neither read nor replace them. Programs compressed with zstandard
  are not checked.

  Args:
    folder: the cache; it may not exist.
  """
  for path in folder.glob("*-cache"):
    try:
      content = path.read_bytes()
      if content[:1] != _ZLIB and content:
        continue
      reader = zlib.decompressobj()
      reader.decompress(content)
      if reader.eof:
        continue
    except zlib.error:
      pass
    except OSError as error:
      _log.warning("cannot read the compiled program %s (%s)", path, error)
      continue
    _log.warning("removing the incomplete compiled program %s", path)
    path.unlink(missing_ok=True)


def _machine() -> str:
  """Returns a name of the machine's kind.

  XLA compiles for the instructions of one CPU, and JAX's hash does not contain
  them: a program of another CPU may end the process.
  """
  kind = jax.default_backend()
  if kind != "cpu":
    return kind
  features = platform.machine()
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    features += next((x for x in lines if x.startswith(("flags", "Feat"))), "")
  except OSError:
    features += platform.processor()
  return f"cpu-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
