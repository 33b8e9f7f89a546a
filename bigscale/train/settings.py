"""Compares the settings of a run with those that another version recorded."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from bigscale.spec import Change, RunSpec, SpecError, from_json, to_json


def changes_of(old: Mapping[str, Any], spec: RunSpec) -> list[Change]:
  """Returns the settings in which a spec differs from a recorded one.

  Settings that did not exist in the recording version do not count.
  """
  new = by_meaning(to_json(spec))
  unknown = [name for name, _ in unknown_to(old, new, "")]
  return [
    Change(*found)
    for found in differences(by_meaning(old), new, "")
    if not any(f"{found[0]}.".startswith(f"{name}.") for name in unknown)
  ]


def by_meaning(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns a recorded spec with defaults for missing settings.

  Settings can be missing if an earlier version wrote the spec. A spec that this
  version cannot read is returned unchanged.
  """
  with contextlib.suppress(SpecError):
    recorded = to_json(from_json(recorded))
  return json.loads(json.dumps(recorded))


def differences(
  old: Any, new: Any, path: str
) -> Iterator[tuple[str, Any, Any]]:
  """Yields dotted name, old value and new value of each differing leaf."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key in sorted(old.keys() | new.keys()):
      name = f"{path}.{key}" if path else key
      yield from differences(old.get(key), new.get(key), name)
  elif _are_groups(old) and _are_groups(new) and len(old) == len(new):
    for number, pair in enumerate(zip(old, new, strict=True)):
      yield from differences(*pair, f"{path}[{number}]")
  elif old != new:
    yield path, old, new


def _are_groups(value: Any) -> bool:
  return isinstance(value, list) and all(
    isinstance(each, Mapping) for each in value
  )


def unknown_to(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any]]:
  """Yields the settings, and their values, that an older spec lacks."""
  if isinstance(old, Mapping) and isinstance(new, Mapping):
    for key, value in new.items():
      name = f"{path}.{key}" if path else key
      if key in old:
        yield from unknown_to(old[key], value, name)
      else:
        yield name, value
