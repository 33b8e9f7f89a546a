"""Names cache files by everything that their content depends on.

A cached file is therefore never stale. `bigscale.cache_folder` reads and writes
the files.
"""

import glob
import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from bigscale.cache_folder import (
  ENVIRONMENT,
  UNREADABLE,
  directory,
  discard,
  load,
  prepare,
  read,
  write,
)

__all__ = [
  "ENVIRONMENT",
  "UNREADABLE",
  "directory",
  "discard",
  "load",
  "path_of",
  "prepare",
  "read",
  "write",
]


def path_of(
  cache_dir: str | None, kind: str, label: str, content: Mapping[str, Any]
) -> str:
  """Returns the path of a cache file.

  Args:
    cache_dir: see `directory`.
    kind: kind of content, for example `classifier`.
    label: readable part of the file name, not part of the fingerprint. A file
      with another label is used if it exists: a renamed copy of data is the
      same data.
    content: everything that the file's content depends on, as JSON values.
  """
  text = json.dumps([kind, dict(content)], sort_keys=True)
  fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
  readable = re.sub(r"[^A-Za-z0-9]+", "_", label).strip("_")[:40]
  folder = directory(cache_dir)
  own = os.path.join(folder, f"{kind}-{readable}-{fingerprint}.npz")
  if os.path.exists(own):
    return own
  any_label = f"{glob.escape(folder)}/{kind}-*-{fingerprint}.npz"
  return min(glob.glob(any_label), default=own)
