"""Settings that a later start of a run had other values of."""

import json

from bigscale.report.facts import number
from bigscale.report.history import attempt_of
from bigscale.report.read import Run


def changed_settings(run: Run) -> list[tuple[str, str]]:
  """Returns when each setting changed, and from what to what."""
  rows = []
  for event in run.events:
    if event.get("event") != "setting_changed":
      continue
    kimg = run.kimg_at(event.get("step", 0), attempt_of(event))
    old, new = (
      json.dumps(event.get(name), ensure_ascii=False) for name in ("old", "new")
    )
    said = f"{event.get('setting')}: {old} to {new}"
    if event.get("consequence"):
      said += f"; {event['consequence']}"
    after = f"step {number(event.get('step', ''))}"
    after += "" if kimg is None else f", {number(kimg)} kimg"
    rows.append((after, said))
  return rows
