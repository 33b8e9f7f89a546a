"""The names of step folders, without loading Orbax.

On a disk, a folder whose name is a number is a complete step. On a bucket, its
last object is `commit_success.txt`, a marker object sets it aside, and a step
that is saved again is `8.1`, `8.2` and so on.
"""

import re

from bigscale.place import Place, is_remote

COMMITTED = "commit_success.txt"
MARKER = "set_aside.json"
_NAME = re.compile(r"(0|[1-9]\d*)(?:\.([1-9]\d*))?")


def name_of(step: int, number: int) -> str:
  """Returns the folder name of the save `number`, from 0, of a step."""
  return f"{step}.{number}" if number else f"{step}"


def is_step(name: str) -> bool:
  """Returns whether a folder name is that of a step, complete or not."""
  return _NAME.fullmatch(name) is not None


def all_names(place: Place) -> dict[str, set[str]]:
  """Returns the files in each folder of a checkpoint folder, by its name."""
  found: dict[str, set[str]] = {}
  for entry in place.list():
    name, _, file = entry.name.partition("/")
    found.setdefault(name, set()).add(file)
  return found


def complete(place: Place) -> dict[int, str]:
  """Returns the names of complete steps that are not set aside, by step."""
  marked = is_remote(place.url)
  found: dict[int, tuple[int, str]] = {}
  for name, files in all_names(place).items():
    parts = _NAME.fullmatch(name)
    is_complete = not marked or (COMMITTED in files and MARKER not in files)
    if parts and is_complete:
      step, number = int(parts[1]), int(parts[2] or 0)
      found[step] = max(found.get(step, (0, "")), (number, name))
  return {step: name for step, (_, name) in found.items()}
