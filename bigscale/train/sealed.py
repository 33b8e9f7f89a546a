"""JSON objects that contain a digest of their content.

A JSON file with a flipped bit in a number still parses. Therefore, the files
that a resume depends on contain a SHA-256 digest of their content, which is
verified when they are read. The digest is computed from the values, not from
the bytes, so damage that changes no value is ignored.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


class SealError(ValueError):
  """The content does not match its digest."""


def digest(content: Any) -> str:
  """Returns the SHA-256 of plain JSON, 64 hexadecimal digits.

  The digest does not change when the content is written as JSON and read back:
  keys are converted to strings and tuples to lists, and the order of keys does
  not matter.
  """
  plain = json.loads(json.dumps(content))
  text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content with its digest under `KEY`."""
  return {**content, KEY: digest(dict(content))}


def unseal(sealed: Any) -> dict[str, Any]:
  """Returns the original content of a sealed object.

  Raises:
    SealError: if the content does not match its digest.
  """
  if not isinstance(sealed, Mapping):
    raise SealError(f"expected a JSON object, not {type(sealed).__name__}")
  content = {name: x for name, x in sealed.items() if name != KEY}
  if sealed.get(KEY) != digest(content):
    raise SealError("the content does not match its digest")
  return content
