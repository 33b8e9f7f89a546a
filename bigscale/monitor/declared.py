"""Finds the steps at which a run was changed on purpose, in its folder."""

import json
from typing import Any

from bigscale.place import Place, log, open_place
from bigscale.spec import ImageCount, SpecError, from_json


def declared_steps(path: str, attempt: int | None = None) -> list[int]:
  """Returns the steps of a run's declared changes, in ascending order.

  They are the ends of its schedules, changes by `--change` and `--accept_data`,
  and the steps that rollbacks returned to. A path that is not a run's folder
  has none.

  Args:
    path: path of the run's folder.
    attempt: attempt whose changes count, with those of earlier attempts; None
      for all.
  """
  try:
    place = open_place(path)
    content = log.read(place, "events") or b""
    events = [
      event
      for event in map(_parse, content.decode().splitlines())
      if attempt is None or event.get("attempt", 0) <= attempt
    ]
    found = {_step(event) for event in events} - {None}
    return sorted(found.union(_schedule_ends(place, events)))
  except (OSError, ValueError, SpecError):
    return []


def _parse(line: str) -> dict[str, Any]:
  try:
    found = json.loads(line)
  except ValueError:
    # The last line of a running or killed run may be incomplete.
    return {}
  return found if isinstance(found, dict) else {}


def _step(event: dict[str, Any]) -> int | None:
  kind = event.get("event")
  if kind == "rollback":
    return event["to_step"]
  # Changes without a consequence do not concern the training.
  changed = kind == "setting_changed" and event.get("consequence")
  return event["step"] if changed or kind == "data_accepted" else None


def _schedule_ends(place: Place, events: list[dict[str, Any]]) -> list[int]:
  try:
    spec = from_json(json.loads(place.read("spec.json"))["spec"])
  except (OSError, ValueError, KeyError, TypeError, SpecError):
    return []
  count = ImageCount(((0, spec.images_per_step),))
  for event in events:
    if "batches" in event:
      count = ImageCount.of(event["batches"])
  return [count.step_of(kimg) for kimg in spec.kinks_kimg]
