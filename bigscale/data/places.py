"""Paths and addresses of data, and whether they can be looked at here."""

import os

from etils import epath

from bigscale.data.manifest import DataError

_OUT = "mount it or copy it to a disk, and name the path there"


def user_path(source: str) -> str:
  """A source's name without `file://`, and with a home folder for a tilde."""
  return os.path.expanduser(local_path(source))


def local_path(path: str) -> str:
  """A path without the `file://` that `epath` does not know."""
  return os.fspath(path).removeprefix("file://")


def is_remote(path: str) -> bool:
  """Whether a path, once `local_path` has seen it, needs `epath`."""
  return "://" in path


def check(name: str) -> None:
  """Refuses a path or address at which nothing can be looked up.

  That there is something is not asked for.

  Raises:
    DataError: it is of a kind that is not read, a package for it is missing,
      or the disk or the network fails.
  """
  try:
    epath.Path(name).exists()
  except KeyError as error:
    scheme = name.partition("://")[0]
    raise DataError(
      f"data {name!r} is an address, and {scheme}:// is not read; {_OUT}"
    ) from error
  except ImportError as error:
    raise DataError(
      f"data {name!r} is an address that cannot be read here ({error}); "
      f"install that package, or {_OUT}"
    ) from error
  # Of networks, of rights and of names that no disk can hold.
  except Exception as error:
    remedy = f"check it, or {_OUT}" if "://" in name else "check the path"
    reason = getattr(error, "strerror", None) or error
    raise DataError(
      f"data {_short(name)!r} cannot be looked at ({reason}); {remedy}"
    ) from error


def _short(name: str) -> str:
  return name if len(name) < 200 else f"{name[:100]}...{name[-50:]}"
