"""Reads recorded traces and judges them as the monitor judges a live run."""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bigscale.monitor import foreign_logs
from bigscale.monitor.verdict import Decision, Verdict
from bigscale.place import is_remote, log, on_disk, open_object, open_place
from bigscale.spec.base import SpecError, require
from bigscale.spec.verdict import VerdictSpec

_FORMAT = (
  "a trace is a CSV file with a header `step,<scalar name>,...`, a file of "
  "JSON lines with a step, a run's folder, or the log folder of "
  "BigGAN-PyTorch, StyleGAN (stats.jsonl) or TensorBoard"
)
# Largest fraction of a trace for the warm-up.
_MAX_WARMUP = 0.2
# Names that run logs use for the numbers that JSON cannot represent.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NOT_SCALARS = ("step", "kimg", "seconds", "attempt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
  """Scalars of a run.

  Attributes:
    rows: step and scalars of each row, in the order of the file.
    notes: messages about rows and cells that could not be used.
  """

  rows: list[tuple[int, dict[str, float]]]
  notes: list[str]


def read_trace(path: str, attempt: int | None = None) -> Trace:
  """Reads a run's folder, a CSV file, or the logs of another trainer.

  In a CSV file, an empty cell is a missing value, and `nan` and `inf` are
  numbers. Any other cell that is not a number is a missing value as well, and a
  note reports it. A row whose step is not an integer is skipped, and a note
  reports it. If a run was rolled back, the rows that led to its latest state
  are read, and the rows of abandoned attempts are not.

  Args:
    path: path of the file or folder; see `foreign_logs` for other formats.
    attempt: attempt of a run whose rows are read up to its end; None for the
      latest attempt.

  Raises:
    SpecError: the file does not exist, is not a trace, or has no rows.
  """
  if is_remote(path):
    trace = _read_address(path, attempt)
    _require_rows(trace, path)
    return trace
  file = on_disk(path)
  if file.is_dir() and (file / "metrics.jsonl").is_file():
    file = file / "metrics.jsonl"
  read = foreign_logs.reader_of(file)
  if read is not None:
    _refuse_attempt(file, attempt)
    trace = Trace(rows=read(file), notes=[])
  else:
    if file.is_dir():
      file = file / "metrics.jsonl"
    require(file.is_file(), f"{file} is not a file; {_FORMAT}")
    trace = _read_file(file, attempt)
  _require_rows(trace, f"{file}")
  return trace


def _require_rows(trace: Trace, name: str) -> None:
  require(
    bool(trace.rows),
    " ".join([f"{name} has no row with a step that is a number.", *trace.notes])
    + f" Note: {_FORMAT}",
  )


def _read_address(address: str, attempt: int | None) -> Trace:
  """Reads a run's folder or one file from a bucket."""
  try:
    content = log.read(open_place(address), "metrics")
    if content is not None:
      return _read_text(content, f"{address}/metrics.jsonl", attempt)
    place, name = open_object(address)
    return _read_text(place.read(name), address, attempt)
  except FileNotFoundError:
    raise SpecError(
      f"{address} is neither a file nor a run's folder; {_FORMAT}"
    ) from None
  except OSError as error:
    raise SpecError(f"{address} cannot be read: {error}") from error


def _read_file(file: pathlib.Path, attempt: int | None) -> Trace:
  try:
    content = file.read_bytes()
  except OSError as error:
    raise SpecError(
      f"{file} cannot be read as text: {error}; {_FORMAT}"
    ) from None
  return _read_text(content, f"{file}", attempt)


def _read_text(content: bytes, name: str, attempt: int | None) -> Trace:
  try:
    text = content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise SpecError(
      f"{name} cannot be read as text: {error}; {_FORMAT}"
    ) from None
  require(bool(text.strip()), f"{name} is empty; {_FORMAT}")
  if name.endswith((".jsonl", ".json")):
    return _read_json_lines(text, attempt)
  _refuse_attempt(name, attempt)
  return _read_csv(text, name)


def _refuse_attempt(file: pathlib.Path | str, attempt: int | None) -> None:
  require(
    attempt is None,
    f"attempt={attempt} selects rows of a bigscale run, and {file} is not one; "
    "omit --attempt",
  )


def replay(
  trace: Trace,
  spec: VerdictSpec,
  kinks: Sequence[int] = (),
  warmup: int | None = None,
) -> dict[str, Any]:
  """Runs the verdict over a trace.

  Args:
    trace: trace to judge.
    spec: false-alarm rates and smallest changes.
    kinks: steps at which the run was changed on purpose.
    warmup: number of steps from the trace's first in which only values that are
      not finite cause an alarm. None uses the spec's number, but at most a
      fifth of the trace.

  Returns:
    A JSON object with
      alarms: one object for each rise of the level, with `step`, `level`,
        `signal`, `value` (null if not finite), `reference`, `rule`, `onset` and
        `also`, the names of the other signals that changed.
      healthy_step: last step before the onset of the first alarm that requests
        a rollback. Without such an alarm it is the last step of the trace, or
        null if no signal could be judged.
      rows: number of rows.
      notes: messages about rows, cells and values that were skipped.
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
    notes.append(
      f"{verdict.ignored} rows repeat an earlier step and are skipped"
    )
  onset = next((d.onset for d in alarms if d.level == "rollback"), None)
  if onset is not None:
    healthy = max((step for step in steps if step < onset), default=None)
  elif verdict.judged:
    healthy = max(steps)
  else:
    healthy = None
    notes.append(
      "too few values to judge the run: only values that are not finite were "
      "detected. A signal is judged after about 40 values"
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
    row = foreign_logs.json_row(line)
    if row is None:
      unreadable += 1
      continue
    step, values = row
    number = _whole(values.get("attempt")) or 0
    scalars = {
      name: _NOT_FINITE.get(value, value) if isinstance(value, str) else value
      for name, value in values.items()
      if name not in _NOT_SCALARS
    }
    found.append((number, step, scalars))
  if attempt is not None:
    require(
      any(number == attempt for number, _, _ in found),
      f"attempt={attempt} has no rows; the attempts in this run are "
      f"{sorted({number for number, _, _ in found})}",
    )
    found = [row for row in found if row[0] <= attempt]
  notes = [f"{unreadable} lines are not rows with a step"] if unreadable else []
  return Trace(rows=list(_led_to_the_end(found)), notes=notes)


def _led_to_the_end(
  rows: list[tuple[int, int, dict[str, Any]]],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Yields the rows that led to the end of the last attempt.

  An attempt replaces the rows of earlier attempts from its first step on.
  """
  first: dict[int, int] = {}
  for attempt, step, _ in rows:
    first[attempt] = min(step, first.get(attempt, step))
  for attempt, step, scalars in rows:
    later = (start for number, start in first.items() if number > attempt)
    if step < min(later, default=step + 1):
      yield step, scalars


def _read_csv(text: str, name: str) -> Trace:
  require("\0" not in text, f"{name} contains binary data; {_FORMAT}")
  head = text.split("\n", 1)[0]
  delimiter = max(",;\t", key=head.count) if "," not in head else ","
  try:
    lines = list(csv.reader(text.splitlines(), delimiter=delimiter))
  except csv.Error as error:
    raise SpecError(f"{name} is not a CSV file: {error}; {_FORMAT}") from None
  names = _without_run_name([cell.strip() for cell in lines[0]])
  lower = [column.lower() for column in names]
  known = [s for s in (*foreign_logs.STEPS, *foreign_logs.KIMG) if s in lower]
  require(
    bool(known) and lower.count(known[0]) == 1,
    f"{name} has {lower.count(known[0]) if known else 'no'} columns named "
    f"`{known[0] if known else 'step'}` in its first line, "
    f"{_short(','.join(names))!r}; {_FORMAT}",
  )
  twice = sorted({column for column in names if names.count(column) > 1})
  require(
    not twice,
    f"{name} has several columns named {twice}; rename them, or export one run",
  )
  require(len(names) > 1, f"{name} has no column but the step; {_FORMAT}")
  scale = 1000.0 if known[0] in foreign_logs.KIMG else 1.0
  return _read_cells(lines[1:], names, lower.index(known[0]), scale)


def _without_run_name(names: list[str]) -> list[str]:
  """Removes the run's name from the columns of a Weights & Biases export."""
  others = [n for n in names if n.lower() not in foreign_logs.STEPS]
  if not others or not all(" - " in name for name in others):
    return names
  return [name.split(" - ", 1)[-1] for name in names]


def _read_cells(
  lines: list[list[str]], names: list[str], at_step: int, scale: float
) -> Trace:
  rows = []
  no_step: list[int] = []
  too_long: list[int] = []
  no_number: dict[str, list[int]] = {}
  for number, cells in enumerate(lines, 2):
    if not any(cell.strip() for cell in cells):
      continue
    value = _parse(cells[at_step]) if at_step < len(cells) else None
    if value is not None and scale > 1 and math.isfinite(value):
      value = float(round(value * scale))
    step = _whole(value)
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
    f"{column}: cells that are not numbers, read as missing: {_lines(found)}"
    for column, found in no_number.items()
  ]
  if no_step:
    notes.append(f"rows without a whole step, skipped: {_lines(no_step)}")
  if too_long:
    notes.append(f"rows with more cells than the header: {_lines(too_long)}")
  return Trace(rows=rows, notes=notes)


def _parse(cell: str) -> float | None:
  try:
    # Python reads 1_000 as a number, but other programs do not.
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
