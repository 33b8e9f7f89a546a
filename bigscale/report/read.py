"""What a run's folder says, read with patience.

A run may be going on, may have been killed in the middle of a line, may have
gone back to an earlier step, or may predate a file: none of it is an error.
"""

import collections
import dataclasses
import functools
import json
import math
import pathlib
from typing import Any

from bigscale.report.history import (
  attempt_of,
  count_in,
  counts_by_attempt,
  is_finite,
  is_number,
  standing,
)
from bigscale.spec import ImageCount
from bigscale.train import sealed

_NOT_FINITE = {
  "NaN": math.nan,
  "Infinity": math.inf,
  "-Infinity": -math.inf,
}
# Of rows: where they stand, and when they were written.
_NO_SCALARS = ("step", "kimg", "seconds", "attempt", "time")
# Of events.
_STEPS = ("step", "to_step", "of_step", "attempt")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ReportError(ValueError):
  """A folder that no report can be made of: what is wrong, what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A grid of samples.

  Attributes:
    path: the PNG file.
    step: steps taken when it was drawn.
    kimg: thousand real images shown to D by then; None where unknown.
  """

  path: pathlib.Path
  step: int
  kimg: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run's folder.

  Attributes:
    directory: the folder.
    spec: the resolved spec as nested dictionaries; {} where unknown.
    versions: of the packages that made the run.
    command: the words of the command line.
    rows: of metrics.jsonl, those that led to the latest state, by step.
    abandoned: the others: each a list of one attempt's rows after the step
      that a later attempt went back to.
    seconds: wall time of all attempts together; None where unknown.
    events: of events.jsonl, in order.
    history: of events, those that led to the latest state or to what a
      rollback gave up: not those that a restart lived again.
    kimg_per_step: thousand real images shown to D in a step, the last one
      where the batch size has changed; None where unknown.
    counts: by attempt, of those whose batch size has changed on the way.
    samples: grids by step.
    notes: what could not be read, one sentence each.
  """

  directory: pathlib.Path
  spec: dict[str, Any]
  versions: dict[str, Any]
  command: list[str]
  rows: list[dict[str, Any]]
  abandoned: list[list[dict[str, Any]]]
  seconds: float | None
  events: list[dict[str, Any]]
  history: list[dict[str, Any]]
  kimg_per_step: float | None
  samples: list[Sample]
  notes: list[str]
  counts: dict[int, ImageCount] = dataclasses.field(default_factory=dict)

  @property
  def reference(self) -> dict[str, float]:
    """The evaluator's numbers about the data: floor, baselines, accuracy."""
    found: dict[str, float] = {}
    for event in self.events:
      if event.get("event") == "reference":
        found |= {k: v for k, v in event.items() if is_number(v)}
    return found

  def kimg_at(self, step: float, attempt: int | None = None) -> float | None:
    """Thousand real images shown after a step; None where unknown.

    Args:
      step: steps taken.
      attempt: in which; None takes the latest.
    """
    if self.counts:
      return count_in(self.counts, attempt).kimg(int(step))
    return None if self.kimg_per_step is None else step * self.kimg_per_step

  def series(self, name: str) -> tuple[list[float], list[float]]:
    """The kimg and the values of a scalar, along the rows that led here."""
    return self._columns.get(name, ([], []))

  def names(self) -> list[str]:
    """All scalars logged, in the order in which they first appear."""
    return [name for name in self._columns if name not in _NO_SCALARS]

  @functools.cached_property
  def _columns(self) -> dict[str, tuple[list[float], list[float]]]:
    """The kimg and the values of all numbers of the rows that led here."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in self.rows:
      for name, value in row.items():
        if is_number(value):
          if name not in found:
            found[name] = [], []
          x, y = found[name]
          x.append(row["kimg"])
          y.append(value)
    return found

  @functools.cached_property
  def all_rows(self) -> list[dict[str, Any]]:
    """All rows by step, also those that were given up."""
    rows = [*self.rows, *(row for rows in self.abandoned for row in rows)]
    return sorted(rows, key=lambda row: row["step"])

  def setting(self, path: str) -> Any:
    """A field of the spec, as "model.resolution"; None where unknown."""
    value: Any = self.spec
    for key in path.split("."):
      value = value.get(key) if isinstance(value, dict) else None
    return value


def series(
  rows: list[dict[str, Any]], name: str
) -> tuple[list[float], list[float]]:
  """The kimg and the values of a scalar over some rows."""
  points = [(r["kimg"], r[name]) for r in rows if is_number(r.get(name))]
  return [x for x, _ in points], [y for _, y in points]


def read_run(directory: pathlib.Path) -> Run:
  """Reads a run's folder.

  Args:
    directory: the folder given to `bigscale train --workdir`.

  Returns:
    What is there; missing files give empty parts.

  Raises:
    ReportError: the folder does not exist or holds no run.
  """
  if not directory.is_dir():
    raise ReportError(
      f"{directory} is not a folder; give the --workdir of a "
      "`bigscale train` run"
    )
  if not any(
    (directory / name).is_file() for name in ("spec.json", "metrics.jsonl")
  ):
    raise ReportError(
      f"{directory} holds no run: it has neither spec.json nor "
      "metrics.jsonl; give the --workdir of a `bigscale train` run"
    )
  return read_whatever(directory)


def read_whatever(directory: pathlib.Path) -> Run:
  """As `read_run`, of a folder that may not hold a run yet."""
  notes: list[str] = []
  description = _read_description(directory / "spec.json", notes)
  spec = _mapping(description.get("spec"))
  images_per_step = _images_per_step(spec)
  rows = read_lines(directory / "metrics.jsonl", notes)
  rows = [row for row in rows if is_finite(row.get("step"))]
  for row in rows:
    if not is_finite(row.get("kimg")) and images_per_step:
      row["kimg"] = row["step"] * images_per_step / 1000
  rows = [row for row in rows if is_finite(row.get("kimg"))]
  events = _with_steps(read_lines(directory / "events.jsonl", notes), notes)
  history = standing(events)
  kept, abandoned = _split_attempts(rows, history)
  command = description.get("command")
  run = Run(
    directory=directory,
    spec=spec,
    versions=_mapping(description.get("versions")),
    command=[str(w) for w in command] if isinstance(command, list) else [],
    rows=kept,
    abandoned=abandoned,
    seconds=_wall_time(rows),
    events=events,
    history=history,
    kimg_per_step=_kimg_per_step(images_per_step, kept),
    samples=[],
    notes=notes,
    counts=counts_by_attempt(history),
  )
  return dataclasses.replace(run, samples=_find_samples(run))


def _read_description(path: pathlib.Path, notes: list[str]) -> dict[str, Any]:
  if not path.is_file():
    notes.append("spec.json is missing: the run's settings are unknown.")
    return {}
  try:
    found = json.loads(path.read_bytes())
  except (OSError, ValueError) as error:
    notes.append(f"spec.json cannot be read: {error}.")
    return {}
  found = _mapping(found)
  # Those of earlier versions have no digest.
  if sealed.KEY in found:
    try:
      sealed.unseal(found)
    except sealed.SealError as error:
      notes.append(
        f"spec.json is damaged ({error}): the settings may not be the run's."
      )
  return found


def _mapping(value: Any) -> dict[str, Any]:
  return value if isinstance(value, dict) else {}


def read_lines(path: pathlib.Path, notes: list[str]) -> list[dict[str, Any]]:
  """The rows of a .jsonl file, none where there is no file.

  A torn last line is passed over in silence; of other lines that cannot be
  read, `notes` is told.
  """
  if not path.is_file():
    return []
  try:
    lines = path.read_bytes().split(b"\n")
  except OSError as error:
    notes.append(f"{path.name} cannot be read: {error.strerror}.")
    return []
  rows, unreadable = [], 0
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      row = None
    if isinstance(row, dict):
      rows.append({key: _restore(value) for key, value in row.items()})
    elif number < len(lines):
      unreadable += 1
  if unreadable:
    notes.append(f"{path.name} has unreadable lines: {unreadable}.")
  return rows


def _restore(value: Any) -> Any:
  return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _images_per_step(spec: dict[str, Any]) -> int | None:
  batch = spec.get("global_batch_size")
  updates = _mapping(spec.get("optim")).get("d_steps", 1)
  if is_number(batch) and is_number(updates):
    return batch * updates
  return None


def _kimg_per_step(
  images_per_step: int | None, rows: list[dict[str, Any]]
) -> float | None:
  if images_per_step:
    return images_per_step / 1000
  steps = [row for row in rows if row["step"] > 0]
  return steps[-1]["kimg"] / steps[-1]["step"] if steps else None


def _with_steps(
  events: list[dict[str, Any]], notes: list[str]
) -> list[dict[str, Any]]:
  """Events without the steps that are no finite numbers; `notes` is told."""
  odd, sound = 0, []
  for event in events:
    wrong = [k for k in _STEPS if k in event and not is_finite(event[k])]
    odd += any(event[k] is not None for k in wrong)
    sound.append({k: v for k, v in event.items() if k not in wrong})
  if odd:
    notes.append(f"events.jsonl has events with steps that are none: {odd}.")
  return sound


def _split_attempts(
  rows: list[dict[str, Any]], history: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
  """Parts the rows that led to the latest state from those given up."""
  first: dict[int, float] = {}
  for row in rows:
    attempt = attempt_of(row)
    first[attempt] = min(row["step"], first.get(attempt, math.inf))
  # Its first row may be long in coming.
  for event in history:
    if event.get("event") == "rollback" and is_finite(event.get("to_step")):
      attempt = attempt_of(event)
      start = event["to_step"] + 1
      first[attempt] = min(start, first.get(attempt, math.inf))
  # A rollback gives up all earlier attempts from its own first step on.
  limit, limits = math.inf, {}
  for attempt in sorted(first, reverse=True):
    limits[attempt] = limit
    limit = min(limit, first[attempt])
  kept, abandoned = [], collections.defaultdict(list)
  for row in rows:
    attempt = attempt_of(row)
    if row["step"] < limits[attempt]:
      kept.append(row)
    else:
      abandoned[attempt].append(row)
  kept.sort(key=lambda row: row["step"])
  return kept, [abandoned[attempt] for attempt in sorted(abandoned)]


def _wall_time(rows: list[dict[str, Any]]) -> float | None:
  """Adds up clocks that start anew whenever the run is started again."""
  clock = [row["seconds"] for row in rows if is_finite(row.get("seconds"))]
  if not clock:
    return None
  ends = [
    now
    for now, later in zip(clock, [*clock[1:], -math.inf], strict=True)
    if later < now
  ]
  return sum(ends)


def _find_samples(run: Run) -> list[Sample]:
  kimg_of = {row["step"]: row["kimg"] for row in run.rows}
  samples = []
  for path in (run.directory / "samples").glob("*.png"):
    if not path.stem.isdecimal():
      continue
    with path.open("rb") as file:
      if file.read(len(_PNG_SIGNATURE)) != _PNG_SIGNATURE:
        run.notes.append(f"samples/{path.name} is not a PNG image.")
        continue
    step = int(path.stem)
    kimg = kimg_of.get(step, run.kimg_at(step))
    samples.append(Sample(path=path, step=step, kimg=kimg))
  return sorted(samples, key=lambda sample: sample.step)
