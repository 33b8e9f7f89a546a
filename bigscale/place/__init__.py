"""Files in a folder on disk or below a prefix of a bucket, with one contract.

`open_place` opens a path, a `gs://` or an `s3://` address. A `Place` has no
rename, no append and no lock, because object stores have none.
"""

from bigscale.place.address import is_remote, on_disk, parent_and_name
from bigscale.place.base import (
  ChangedError,
  Entry,
  Place,
  RefusedError,
  RejectedError,
  StoreError,
)
from bigscale.place.clients import prepare, requests
from bigscale.place.door import open_object, open_place

__all__ = [
  "ChangedError",
  "Entry",
  "Place",
  "RefusedError",
  "RejectedError",
  "StoreError",
  "is_remote",
  "on_disk",
  "open_object",
  "open_place",
  "parent_and_name",
  "prepare",
  "requests",
]
