"""Reads recorded traces and runs the verdict over them."""

import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bigscale.monitor.verdict import Decision, Verdict
from bigscale.spec.base import SpecError, require
from bigscale.spec.verdict import VerdictSpec

_FORMAT = (
  "a trace is a CSV file with a header `step,<scalar name>,...`, or a run's "
  "folder, or its metrics.jsonl"
)
# Part of a trace that a warm-up may take.
_MAX_WARMUP = 0.2
# How run logs spell what JSON has no number for.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NOT_SCALARS = ("step", "kimg", "seconds", "attempt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
  """Scalars of a run.

  Attributes:
    rows: step and scalars of each row, in the order of the file.
    notes: what could not be used, one sentence each.
  """

  rows: list[tuple[int, dict[str, float]]]
  notes: list[str]


def read_trace(path: str, attempt: int | None = None) -> Trace:
  """Reads a CSV file, a metrics.jsonl, or a run's folder.

  An empty cell is missing, and so is one that is no number, which is noted;
  `nan` and `inf` are numbers. A row without a whole step is passed over and
  noted. Of a run that was rolled back, the rows are those that led to the
  latest state, not those that were given up.

  Args:
    path: of the file or folder.
    attempt: of a run: rows that led to the end of that attempt instead.

  Raises:
    SpecError: there is no such file, it is no trace, or it has no rows.
  """
  file = pathlib.Path(path)
  if file.is_dir():
    file = file / "metrics.jsonl"
  require(file.is_file(), f"{file} is no file; {_FORMAT}")
  try:
    text = file.read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise SpecError(
      f"{file} cannot be read as text: {error}; {_FORMAT}"
    ) from None
  require(bool(text.strip()), f"{file} is empty; {_FORMAT}")
  if file.suffix == ".jsonl":
    trace = _read_json_lines(text, attempt)
  else:
    require(
      attempt is None,
      f"attempt={attempt} is of a run's folder, and {file} is a CSV file",
    )
    trace = _read_csv(text, str(file))
  require(
    bool(trace.rows),
    " ".join([f"{file} has no row with a step that is a number.", *trace.notes])
    + f" Note: {_FORMAT}",
  )
  return trace


def replay(
  trace: Trace,
  spec: VerdictSpec,
  kinks: Sequence[int] = (),
  warmup: int | None = None,
) -> dict[str, Any]:
  """Runs the verdict over a trace.

  Args:
    trace: to judge.
    spec: windows and limits.
    kinks: steps at which a schedule bends.
    warmup: steps from the trace's first on in which nothing but numbers that
      are not finite counts; that of the spec if None, but at most a fifth of
      the trace.

  Returns:
    JSON: `alarms`, one for each rise of the level, each with `step`, `level`,
    `signal`, `value` (null where not finite), `reference`, `rule`, `onset` and
    `also`, the signals that concur; `healthy_step`, the last before the onset
    of the first alarm that asks for a rollback, the last of all where there is
    none, null where there is nothing to judge by; `rows` and `notes`.
  """
  steps = [step for step, _ in trace.rows]
  if warmup is None:
    span = max(steps) - min(steps)
    warmup = min(spec.warmup, int(_MAX_WARMUP * span))
  verdict = Verdict(
    dataclasses.replace(spec, warmup=min(steps) + warmup), kinks
  )
  decisions = [verdict.update(step, row) for step, row in trace.rows]
  alarms = [d for d in decisions if d.new and d.level != "ok"]
  notes = [*trace.notes, *verdict.notes]
  if verdict.ignored:
    notes.append(f"{verdict.ignored} rows repeat an earlier step: passed over")
  onset = next(
    (d.onset for d in alarms if d.level in ("rollback", "stop")), None
  )
  if onset is not None:
    healthy = max((step for step in steps if step < onset), default=None)
  elif verdict.judged:
    healthy = max(steps)
  else:
    healthy = None
    notes.append(
      "too few values to judge by: nothing but numbers that are not finite "
      f"was looked for (warm-up of {warmup} steps, then "
      f"min_values={spec.min_values} of a signal)"
    )
  return {
    "alarms": [_alarm(decision) for decision in alarms],
    "healthy_step": healthy,
    "rows": len(trace.rows),
    "notes": notes,
  }


def _alarm(decision: Decision) -> dict[str, Any]:
  first, *others = decision.reasons
  return {
    "step": decision.step,
    "level": decision.level,
    "signal": first.signal,
    "value": _number(first.value),
    "reference": _number(first.reference),
    "rule": first.rule,
    "onset": decision.onset,
    "also": [reason.signal for reason in others],
  }


def _number(value: float | None) -> float | None:
  return value if value is not None and math.isfinite(value) else None


def _read_json_lines(text: str, attempt: int | None) -> Trace:
  found, unreadable = [], 0
  for line in filter(str.strip, text.split("\n")):
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    step = _whole(row.get("step")) if isinstance(row, dict) else None
    if step is None:
      unreadable += 1
      continue
    scalars = {
      name: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
      for name, value in row.items()
      if name not in _NOT_SCALARS
    }
    found.append((_whole(row.get("attempt")) or 0, step, scalars))
  if attempt is not None:
    require(
      any(number == attempt for number, _, _ in found),
      f"attempt={attempt} has no rows; those there are: "
      f"{sorted({number for number, _, _ in found})}",
    )
    found = [row for row in found if row[0] <= attempt]
  notes = [f"{unreadable} lines are no rows with a step"] if unreadable else []
  return Trace(rows=list(_led_to_the_end(found)), notes=notes)


def _led_to_the_end(
  rows: list[tuple[int, int, dict[str, Any]]],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """A later attempt gives up what earlier ones did from its first step on."""
  first: dict[int, int] = {}
  for attempt, step, _ in rows:
    first[attempt] = min(step, first.get(attempt, step))
  for attempt, step, scalars in rows:
    later = (start for number, start in first.items() if number > attempt)
    if step < min(later, default=step + 1):
      yield step, scalars


def _read_csv(text: str, name: str) -> Trace:
  require("\0" not in text, f"{name} holds binary data; {_FORMAT}")
  head = text.split("\n", 1)[0]
  delimiter = max(",;\t", key=head.count) if "," not in head else ","
  try:
    lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
  except csv.Error as error:
    raise SpecError(f"{name} is no CSV file: {error}; {_FORMAT}") from None
  names = [cell.strip() for cell in lines[0]]
  lower = [column.lower() for column in names]
  require(
    lower.count("step") == 1,
    f"{name} has {lower.count('step') or 'no'} columns named `step` in its "
    f"first line, {_short(','.join(names))!r}; {_FORMAT}",
  )
  twice = sorted({column for column in names if names.count(column) > 1})
  require(not twice, f"{name} has several columns named {twice}; rename them")
  require(len(names) > 1, f"{name} has no column but the step; {_FORMAT}")
  return _read_cells(lines[1:], names, lower.index("step"))


def _read_cells(
  lines: list[list[str]], names: list[str], at_step: int
) -> Trace:
  rows = []
  no_step: list[int] = []
  too_long: list[int] = []
  no_number: dict[str, list[int]] = {}
  for number, cells in enumerate(lines, 2):
    if not any(cell.strip() for cell in cells):
      continue
    step = _whole(_parse(cells[at_step])) if at_step < len(cells) else None
    if step is None:
      no_step.append(number)
      continue
    if len(cells) > len(names):
      too_long.append(number)
    scalars = {}
    for index, (column, cell) in enumerate(zip(names, cells, strict=False)):
      if index == at_step or not cell.strip():
        continue
      value = _parse(cell)
      if value is None:
        no_number.setdefault(column, []).append(number)
      else:
        scalars[column] = value
    rows.append((step, scalars))
  notes = [
    f"{column}: cells that are no numbers, taken as missing: {_lines(found)}"
    for column, found in no_number.items()
  ]
  if no_step:
    notes.append(f"rows without a whole step, passed over: {_lines(no_step)}")
  if too_long:
    notes.append(f"rows with more cells than the header: {_lines(too_long)}")
  return Trace(rows=rows, notes=notes)


def _parse(cell: str) -> float | None:
  try:
    # Python alone reads 1_000 as a number.
    return None if "_" in cell else float(cell)
  except ValueError:
    return None


def _whole(value: Any) -> int | None:
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return None
  if not math.isfinite(value) or value != int(value) or value < 0:
    return None
  return int(value)


def _lines(numbers: list[int]) -> str:
  return f"{len(numbers)}, the first in line {numbers[0]}"


def _short(text: str) -> str:
  limit = 60
  return text if len(text) <= limit else text[:limit] + "..."
