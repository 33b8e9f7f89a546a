"""Paths of files on a disk or a bucket, for messages and for Orbax."""

import os

from etils import epath

from bigscale.place.address import is_remote, on_disk


def path_of(path: str | os.PathLike[str]) -> epath.Path:
  """Returns a `pathlib.Path` of a path, or an `epath.Path` of an address.

  Raises:
    SpecError: it was an address before `pathlib` shortened it.
  """
  # Unlike pathlib, epath does not turn gs://bucket into a local folder.
  return epath.Path(path) if is_remote(path) else on_disk(path)
