"""Writes docs/reference/drills.md from the recorded results.

python -m docs.make_drills

`docs/drills/` contains the text of the page, the rows that `bigscale monitor
drill` and `bigscale monitor interventions` wrote, and `verdicts.json`: by
version of the verdict, the steps of its alarms in each recorded run (`monitor
drill --verdict_of=CHECKOUT`).
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.monitor import scoring
from bigscale.monitor.drills import interventions, table
from bigscale.monitor.drills.stages import WATCHED

PAGE = pathlib.Path(__file__).parent / "reference" / "drills.md"
_FOLDER = pathlib.Path(__file__).parent / "drills"
_WARMUPS = {watch: of.warmup for watch, of in WATCHED.items()}
_TITLES = (
  "verdict",
  "lost runs seen, unseen kinds",
  "before the loss",
  "lost runs seen, seen kinds",
  "before the loss",
  "alarms in unharmed runs",
  "false alarms",
)


def page() -> str:
  """Returns the page."""
  rows = _rows("drills.jsonl")
  verdicts = json.loads((_FOLDER / "verdicts.json").read_text())
  policies = interventions.summary(_rows("interventions.jsonl"))
  tables = {
    "scores": table.as_markdown(table.score(rows, _WARMUPS)),
    "versions": _versions(rows, verdicts),
    "interventions": interventions.as_markdown(policies),
  }
  text = (_FOLDER / "page.md.in").read_text()
  for name, lines in tables.items():
    text = text.replace(f"{{{name}}}", lines)
  return text


def _rows(name: str) -> list[dict[str, Any]]:
  return [json.loads(x) for x in (_FOLDER / name).read_text().splitlines()]


def _versions(
  rows: Sequence[Mapping[str, Any]],
  verdicts: Mapping[str, Mapping[str, Sequence[int]]],
) -> str:
  """Returns a table of all versions of the verdict on the same runs."""
  lines = [f"| {' | '.join(_TITLES)} |", "|---" * len(_TITLES) + "|"]
  for name, alarms in verdicts.items():
    replaced = [_with_alarms(row, alarms[row["name"]]) for row in rows]
    scored = table.score(replaced, _WARMUPS)
    cells = [
      scoring.share_text(scored["rates"][group][rate])
      for group in ("unseen kinds", "seen kinds")
      for rate in ("recall", "in_time")
    ]
    cells += [
      scoring.share_text(scored["rates"]["all"]["harmless_alarms"]),
      scoring.rate_text(scored["false_alarms"]["all"]),
    ]
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


def _with_alarms(
  row: Mapping[str, Any], steps: Sequence[int]
) -> dict[str, Any]:
  alarm = {"step": steps[0]} if steps else None
  return {**row, "alarms": steps, "alarm": alarm}


if __name__ == "__main__":
  PAGE.write_text(page())
