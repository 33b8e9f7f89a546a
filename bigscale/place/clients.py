"""Settings of the libraries that access object stores, and request counts."""

import collections
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

# Requests of this process by method, such as GET.
_counts: collections.Counter[str] = collections.Counter()
_lock = threading.Lock()
# Metrics of TensorStore, with which Orbax reads and writes arrays.
_TENSORSTORE = "/tensorstore/kvstore/gcs/"
_TENSORSTORE_REQUESTS = ("batch_read", "read", "write", "list", "delete_range")


def prepare() -> None:
  """Sets what every library in this process needs to access object stores.

  Call it before Orbax or `etils.epath` accesses an address. Worker processes
  inherit the settings that are environment variables.
  """
  # An installed TensorFlow would otherwise replace fsspec in `etils.epath`.
  os.environ["EPATH_USE_TF"] = "false"
  # The hierarchical buckets of gcsfs need credentials of another API.
  os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
  # A cached listing would hide what other processes write.
  uncached = json.dumps({"use_listings_cache": False})
  for name in ("FSSPEC_GCS", "FSSPEC_GS", "FSSPEC_S3"):
    os.environ.setdefault(name, uncached)
  # A server for tests: without these, TensorStore would wait for Google's.
  if server := os.environ.get("STORAGE_EMULATOR_HOST"):
    os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", server)
    os.environ.setdefault("CLOUD_STORAGE_EMULATOR_ENDPOINT", server)
  try:
    from fsspec import config
  except ImportError:  # No extra is installed, so no address can be opened.
    return
  for scheme in ("gs", "gcs", "s3"):
    config.conf.setdefault(scheme, {})["use_listings_cache"] = False
  for scheme in ("gs", "gcs"):
    if google_token():
      config.conf[scheme].setdefault("token", google_token())
  traced = session_kwargs()
  if traced is not None:
    for scheme in ("gs", "gcs"):
      config.conf[scheme].setdefault("session_kwargs", traced)


def google_token() -> str | None:
  """Returns how gcsfs logs in: "anon" to a server for tests; None searches.

  The search asks the metadata server, which takes seconds where there is none.
  """
  return "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None


_trace: dict[str, Any] | None = None


def session_kwargs() -> dict[str, Any] | None:
  """Returns arguments of an aiohttp session that count its requests."""
  global _trace
  if _trace is None:
    try:
      import aiohttp
    except ImportError:
      return None

    async def count_request(session: Any, context: Any, params: Any) -> None:
      del session, context
      count(params.method)

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(count_request)
    _trace = {"trace_configs": [trace]}
  return _trace


def count(kind: str) -> None:
  """Counts a request of this process."""
  with _lock:
    _counts[kind.upper()] += 1


def requests() -> collections.Counter[str]:
  """Returns the number of requests that this process made to stores.

  Returns:
    Counts by HTTP method. `TENSORSTORE` counts the operations of TensorStore
    on gs://, each of which is at least one request.
  """
  with _lock:
    found = _counts.copy()
  tensorstore = sys.modules.get("tensorstore")
  if tensorstore is not None:
    metrics = tensorstore.experimental_collect_matching_metrics(_TENSORSTORE)
    wanted = {_TENSORSTORE + name for name in _TENSORSTORE_REQUESTS}
    made = sum(
      value.get("value", 0)
      for metric in metrics
      if metric["name"] in wanted
      for value in metric["values"]
    )
    if made:
      found["TENSORSTORE"] = int(made)
  return found


_clients: dict[tuple, Any] = {}
_connecting = threading.RLock()


def shared(key: tuple, connect: Callable[[], Any]) -> Any:
  """Returns this process's client of a store, made at the first call.

  Args:
    key: settings of the client.
    connect: makes the client.
  """
  key = (os.getpid(), *key)
  with _connecting:
    if key not in _clients:
      _clients[key] = connect()
    return _clients[key]
