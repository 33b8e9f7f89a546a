"""Requests to S3 and stores with its interface, made by s3fs."""

import os
from typing import Any

from bigscale.place import clients
from bigscale.place.base import Entry
from bigscale.place.stores import TRANSIENT_STATUS, Found

REMEDY = (
  "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give "
  "the machine's role access to the bucket"
)

# Settings on which a client depends.
_SETTINGS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID")
# Two conditional writes of the same name met; one of them must be repeated.
_CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")


class S3Store:
  """See `Store`."""

  scheme = "s3"
  remedy = REMEDY

  def __init__(self) -> None:
    settings = tuple(os.environ.get(name, "") for name in _SETTINGS)
    self._fs = clients.shared((self.scheme, *settings), _connect)

  def transient(self, error: Exception) -> bool:
    """See `Store`."""
    import aiohttp
    from botocore import exceptions, parsers

    code, status = _answer(error)
    if status is not None:
      return status in TRANSIENT_STATUS or code in _CONFLICTS
    return isinstance(
      error,
      (
        aiohttp.ClientError,
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        parsers.ResponseParserError,
        ConnectionError,
        TimeoutError,
      ),
    )

  def refused(self, error: Exception) -> bool:
    """See `Store`."""
    from botocore import exceptions

    credentials = (
      exceptions.NoCredentialsError,
      exceptions.PartialCredentialsError,
      exceptions.CredentialRetrievalError,
      exceptions.ProfileNotFound,
    )
    return isinstance(error, (PermissionError, *credentials)) or (
      _answer(error)[1] in (401, 403)
    )

  def list(
    self, bucket: str, prefix: str, most: int | None, seconds: float
  ) -> list[Entry]:
    """See `Store`."""
    found: list[Entry] = []
    more: dict[str, Any] = {"MaxKeys": most} if most else {}
    while True:
      page = self._fs.call_s3(
        "list_objects_v2",
        Bucket=bucket,
        Prefix=prefix,
        timeout=seconds,
        **more,
      )
      found += [
        Entry(item["Key"], int(item["Size"]), item["ETag"].strip('"'))
        for item in page.get("Contents", ())
      ]
      if not page.get("IsTruncated") or most:
        return found
      more = {"ContinuationToken": page["NextContinuationToken"]}

  def head(self, bucket: str, name: str, seconds: float) -> Found:
    """See `Store`."""
    item = self._fs.call_s3(
      "head_object", Bucket=bucket, Key=name, timeout=seconds
    )
    entry = Entry(name, int(item["ContentLength"]), item["ETag"].strip('"'))
    return Found(entry, item.get("Metadata", {}).get("writer"))

  def get(
    self,
    bucket: str,
    name: str,
    bounds: tuple[int, int] | None,
    version: str,
    seconds: float,
  ) -> bytes:
    """See `Store`."""
    from fsspec import asyn

    more: dict[str, Any] = {"Bucket": bucket, "Key": name}
    if bounds is not None:
      more["Range"] = f"bytes={bounds[0]}-{bounds[1] - 1}"
    if version:
      more["IfMatch"] = f'"{version}"'

    async def fetch() -> bytes:
      # s3fs has no method that passes IfMatch.
      answer = await self._fs._call_s3("get_object", **more)
      async with answer["Body"] as body:
        return await body.read()

    try:
      return asyn.sync(self._fs.loop, fetch, timeout=seconds)
    except OSError as error:
      code = _answer(error)[0]
      if code == "InvalidRange":  # It ends before `start`.
        return b""
      if code == "PreconditionFailed":
        raise FileNotFoundError(name) from error
      raise

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
      more = {"mode": "create", "Metadata": {"writer": writer}}
    try:
      self._fs.pipe_file(f"{bucket}/{name}", data, timeout=seconds, **more)
    except OSError as error:
      # s3fs translates the answer of AWS, but not that of other servers.
      code = _answer(error)[0]
      if isinstance(error, FileExistsError) or code == "PreconditionFailed":
        return False
      raise
    return True

  def delete(self, bucket: str, name: str, seconds: float) -> None:
    """See `Store`."""
    self._fs.call_s3("delete_object", Bucket=bucket, Key=name, timeout=seconds)


def _answer(error: BaseException | None) -> tuple[str, int | None]:
  """Returns the error code and the HTTP status of an error; ("", None)."""
  while error is not None:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
      status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
      return str(response.get("Error", {}).get("Code", "")), status
    error = error.__cause__
  return "", None


def _connect() -> Any:
  import s3fs

  fs = s3fs.S3FileSystem(
    use_listings_cache=False,
    skip_instance_cache=True,
    # `retrying` repeats requests.
    config_kwargs={"retries": {"total_max_attempts": 1}, "read_timeout": 30},
  )
  fs.retries = 1
  fs.connect()
  fs.s3.meta.events.register("before-send.s3", _count)
  return fs


def _count(request: Any, **details: Any) -> None:
  del details
  clients.count(request.method)
