"""Opens places; every path and address of a user goes through here."""

import os

from bigscale.place import clients
from bigscale.place.address import (
  is_remote,
  on_disk,
  parent_and_name,
  split_address,
)
from bigscale.place.base import Place, RefusedError, RejectedError
from bigscale.place.bucket import BucketPlace
from bigscale.place.disk import DiskPlace
from bigscale.place.gcs import GoogleStore
from bigscale.place.s3 import S3Store
from bigscale.spec import SpecError

# Stores, and the extra that installs each client.
_STORES = {"gs": (GoogleStore, "gcs"), "s3": (S3Store, "s3")}

PATIENCE_SECONDS = 60.0

# Buckets that were accessed, with the process in which they were.
_accessed: set[tuple[int, str, str]] = set()


def open_place(
  path: str | os.PathLike[str], patience: float | None = None
) -> Place:
  """Returns the place of a folder or a prefix, which need not exist.

  The first place of a bucket in a process makes one request, to find out
  whether the bucket can be accessed.

  Args:
    path: a path, a `file://`, `gs://` or `s3://` address.
    patience: seconds for which transient errors of a request are retried;
      None uses `PATIENCE_SECONDS`.

  Raises:
    SpecError: the scheme is unknown, its package is not installed, the bucket
      does not exist, or credentials or permissions are missing.
    StoreError: the store does not answer.
  """
  if not is_remote(path):
    return DiskPlace(on_disk(path))
  address = os.fspath(path)
  scheme, bucket, root = split_address(address)
  if scheme not in _STORES:
    raise SpecError(
      f"{address!r} is an address, but {scheme}:// is not supported; use a "
      "gs:// or s3:// address or a local path"
    )
  clients.prepare()
  store, extra = _STORES[scheme]
  if patience is None:
    patience = PATIENCE_SECONDS
  place = BucketPlace(store, bucket, root, patience)
  access = (os.getpid(), scheme, bucket)
  if access in _accessed:
    return place
  try:
    place.any()
  except ImportError as error:
    raise SpecError(
      f"{address!r} needs a package that is not installed ({error}); install "
      f"it with: pip install 'bigscale[{extra}]'"
    ) from error
  except FileNotFoundError as error:
    raise SpecError(
      f"{address!r} is in the bucket {bucket!r}, which does not exist; create "
      "it, or check its name"
    ) from error
  except (RefusedError, RejectedError) as error:
    raise SpecError(f"{address!r} cannot be accessed: {error}") from error
  _accessed.add(access)
  return place


def open_object(
  path: str | os.PathLike[str], patience: float | None = None
) -> tuple[Place, str]:
  """Returns the place of a file and its name there; see `open_place`."""
  folder, name = parent_and_name(path)
  return open_place(folder, patience), name
