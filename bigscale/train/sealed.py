"""JSON that carries the digest of its own content.

A flipped bit in a number of a JSON file leaves a file that parses. What a
resume depends on is therefore sealed: a SHA-256 over the content goes with it,
and is compared when it is read. The digest is of the values, not of the bytes
of a file: damage that changes no value is no damage.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


class SealError(ValueError):
  """Content that is not what its digest was taken of."""


def digest(content: Any) -> str:
  """Returns the SHA-256 of plain JSON, 64 hexadecimal digits.

  It is the same before the content is written as JSON and after it is read
  again: keys become text, tuples become lists, and their order in a mapping
  does not count.
  """
  plain = json.loads(json.dumps(content))
  text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
  return hashlib.sha256(text.encode("ascii")).hexdigest()


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the content with its digest under `KEY`."""
  return {**content, KEY: digest(dict(content))}


def unseal(sealed: Any) -> dict[str, Any]:
  """Returns the content that `seal` was given.

  Raises:
    SealError: it is not that content any more.
  """
  if not isinstance(sealed, Mapping):
    raise SealError(f"it holds {type(sealed).__name__}, not an object")
  content = {name: x for name, x in sealed.items() if name != KEY}
  if sealed.get(KEY) != digest(content):
    raise SealError("its content does not match its digest")
  return content
