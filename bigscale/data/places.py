"""Paths and remote addresses of data, and checks that they can be accessed."""

import os

from etils import epath

from bigscale.data.manifest import DataError

_OUT = "mount it or copy it to a disk, and use the local path"


def user_path(source: str) -> str:
  """Returns a source's name without `file://`, with `~` expanded."""
  return os.path.expanduser(local_path(source))


def local_path(path: str) -> str:
  """Returns a path without `file://`, which `epath` does not support."""
  return os.fspath(path).removeprefix("file://")


def is_remote(path: str) -> bool:
  """Returns whether a path, after `local_path`, needs `epath`."""
  return "://" in path


def check(name: str) -> None:
  """Checks that a path or address can be accessed; it need not exist.

  Raises:
    DataError: the kind of address is not supported, a package for it is not
      installed, or the disk or the network fails.
  """
  try:
    epath.Path(name).exists()
  except KeyError as error:
    scheme = name.partition("://")[0]
    raise DataError(
      f"data {name!r} is an address, but {scheme}:// is not supported; {_OUT}"
    ) from error
  except ImportError as error:
    raise DataError(
      f"data {name!r} is an address that cannot be read here ({error}); "
      f"install that package, or {_OUT}"
    ) from error
  # Network and permission errors, and names that are too long for a disk.
  except Exception as error:
    remedy = f"check it, or {_OUT}" if "://" in name else "check the path"
    reason = getattr(error, "strerror", None) or error
    raise DataError(
      f"data {_short(name)!r} cannot be accessed ({reason}); {remedy}"
    ) from error


def _short(name: str) -> str:
  return name if len(name) < 200 else f"{name[:100]}...{name[-50:]}"
