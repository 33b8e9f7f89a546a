"""Tells addresses such as gs://bucket/run from paths on this machine.

`pathlib.Path("gs://bucket/run")` is the local folder `gs:/bucket/run`. A path
that a user wrote becomes a `pathlib.Path` only in `on_disk`, which refuses
addresses.
"""

import os
import pathlib
import re

from bigscale.spec import SpecError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# What `pathlib` makes of an address.
_BROKEN = re.compile(r"(?:.*/)?(gs|gcs|s3|s3a|https?|file):/[^/]", re.DOTALL)


def is_remote(path: str | os.PathLike[str]) -> bool:
  """Returns whether a path is an address other than `file://`."""
  found = _ADDRESS.match(os.fspath(path))
  return found is not None and found[1].lower() != "file"


def split_address(address: str) -> tuple[str, str, str]:
  """Returns the scheme, the bucket and the name of an address.

  Raises:
    SpecError: the address has no bucket.
  """
  found = _ADDRESS.match(address)
  if found is None:
    raise SpecError(f"{address!r} is not an address; use gs://BUCKET/NAME")
  bucket, _, name = found[2].partition("/")
  if not bucket:
    raise SpecError(f"{address!r} has no bucket; use {found[1]}://BUCKET/NAME")
  return found[1].lower(), bucket, name.strip("/")


def on_disk(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns a path on this machine, without `file://` and with `~` expanded.

  Raises:
    SpecError: it is an address, or was one before `pathlib` shortened it.
  """
  text = os.fspath(path)
  if is_remote(text) or _BROKEN.match(text):
    raise SpecError(
      f"{text!r} is an address, but a path on this machine is needed; use a "
      "local path"
    )
  local = re.sub(r"^file://", "", text, flags=re.IGNORECASE)
  return pathlib.Path(local).expanduser()


def parent_and_name(path: str | os.PathLike[str]) -> tuple[str, str]:
  """Returns the folder and the file name of a path or an address."""
  text = os.fspath(path).rstrip("/")
  if not is_remote(text):
    found = on_disk(text)
    return os.fspath(found.parent), found.name
  scheme, bucket, name = split_address(text)
  folder, _, last = name.rpartition("/")
  return f"{scheme}://{bucket}/{folder}".rstrip("/"), last
