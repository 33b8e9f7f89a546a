"""Requests to Google Cloud Storage, made by gcsfs."""

import io
import os
from typing import Any

from bigscale.place import clients
from bigscale.place.base import Entry
from bigscale.place.stores import TRANSIENT_STATUS, Found

REMEDY = (
  "log in with 'gcloud auth application-default login', set "
  "GOOGLE_APPLICATION_CREDENTIALS, or give the machine's service account the "
  "role Storage Object User on the bucket"
)


class GoogleStore:
  """See `Store`."""

  scheme = "gs"
  remedy = REMEDY

  def __init__(self) -> None:
    server = os.environ.get("STORAGE_EMULATOR_HOST", "")
    self._fs = clients.shared((self.scheme, server), _connect)

  def transient(self, error: Exception) -> bool:
    """See `Store`."""
    import aiohttp
    import google.auth.exceptions
    import requests
    from gcsfs.retry import HttpError

    if isinstance(error, HttpError):
      return str(error.code) in map(str, TRANSIENT_STATUS)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
      return error.retryable
    return isinstance(
      error,
      (
        aiohttp.ClientError,
        requests.exceptions.RequestException,
        ConnectionError,
        TimeoutError,
      ),
    )

  def refused(self, error: Exception) -> bool:
    """See `Store`."""
    import google.auth.exceptions

    return (
      isinstance(error, google.auth.exceptions.GoogleAuthError)
      or getattr(error, "code", None) in (401, "401", 403, "403")
      or (isinstance(error, OSError) and str(error).startswith("Forbidden"))
    )

  def list(
    self, bucket: str, prefix: str, most: int | None, seconds: float
  ) -> list[Entry]:
    """See `Store`."""
    found: list[Entry] = []
    token = None
    while True:
      page = self._fs.call(
        "GET",
        "b/{}/o",
        bucket,
        json_out=True,
        prefix=prefix or None,
        pageToken=token,
        maxResults=most,
        fields="items(name,size,generation),nextPageToken",
        timeout=seconds,
      )
      found += [
        Entry(item["name"], int(item["size"]), str(item["generation"]))
        for item in page.get("items", ())
      ]
      token = page.get("nextPageToken")
      if not token or most:
        return found

  def head(self, bucket: str, name: str, seconds: float) -> Found:
    """See `Store`."""
    item = self._fs.call(
      "GET", "b/{}/o/{}", bucket, name, json_out=True, timeout=seconds
    )
    entry = Entry(name, int(item["size"]), str(item["generation"]))
    return Found(entry, item.get("metadata", {}).get("writer"))

  def get(
    self,
    bucket: str,
    name: str,
    bounds: tuple[int, int] | None,
    version: str,
    seconds: float,
  ) -> bytes:
    """See `Store`."""
    headers = {}
    if bounds is not None:
      headers["Range"] = f"bytes={bounds[0]}-{bounds[1] - 1}"
    try:
      _, data = self._fs.call(
        "GET",
        self._fs.url(f"{bucket}/{name}", generation=version or None),
        headers=headers,
        timeout=seconds,
      )
    except Exception as error:
      if str(getattr(error, "code", None)) == "416":  # It ends before `start`.
        return b""
      raise
    return data

  def put(
    self,
    bucket: str,
    name: str,
    data: bytes,
    writer: str | None,
    seconds: float,
  ) -> bool:
    """See `Store`."""
    more: dict[str, Any] = {}
    if writer is not None:
      more = {"mode": "create", "metadata": {"writer": writer}}
    try:
      self._fs.pipe_file(f"{bucket}/{name}", data, timeout=seconds, **more)
    except FileExistsError:
      return False
    return True

  def delete(self, bucket: str, name: str, seconds: float) -> None:
    """See `Store`."""
    self._fs.call("DELETE", "b/{}/o/{}", bucket, name, timeout=seconds)


def _connect() -> Any:
  from gcsfs.core import GCSFileSystem

  # `retrying` repeats requests; gcsfs would do so for a minute before it raises
  # an error, without a limit of the whole time.
  once = getattr(GCSFileSystem._request, "__wrapped__", GCSFileSystem._request)

  class Client(GCSFileSystem):
    async def _request(
      self, *args: Any, data: bytes | None = None, **kwargs: Any
    ) -> Any:
      # aiohttp sends a file in parts, and other requests meanwhile.
      body = io.BytesIO(data) if isinstance(data, bytes) else data
      return await once(self, *args, data=body, **kwargs)

  return Client(
    use_listings_cache=False,
    skip_instance_cache=True,
    token=clients.google_token(),
    session_kwargs=clients.session_kwargs(),
  )
