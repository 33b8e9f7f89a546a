"""Files of the cache that are named by all that their content depends on.

So a file is never stale. How files are read and written is
`bigscale.cache_folder`.
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
  """Where something is kept.

  Args:
    cache_dir: see `directory`.
    kind: of thing, like `classifier`.
    label: helps people to tell files apart; no part of the fingerprint. A
      file of another label is taken: a renamed copy of data is the same data.
    content: all that the file's content depends on, as JSON values.
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
