"""Reads a run's folder, on a disk or a bucket, and tolerates incomplete files.

None of these is an error: the run is still training, the process was killed
while writing a line, the run was rolled back, or an earlier version did not
write a file.
"""

import collections
import dataclasses
import functools
import json
import math
import os
from typing import Any

from bigscale.place import Place, is_remote, log, on_disk, open_place
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
# Keys of a row that are not scalars.
_NO_SCALARS = ("step", "kimg", "seconds", "attempt", "time")
# Keys of an event whose values are steps or attempts.
_STEPS = ("step", "to_step", "of_step", "attempt")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class ReportError(ValueError):
  """The folder is not a run, or the report cannot be written."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A grid of samples.

  Attributes:
    name: name of the PNG file in the run's folder.
    step: training step of the samples.
    kimg: thousand real images shown to D by then, or None if unknown.
  """

  name: str
  step: int
  kimg: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run's folder.

  Attributes:
    place: the folder.
    spec: the resolved spec as nested dictionaries, {} if unknown.
    versions: package versions at the start of the run, by package.
    command: the arguments of the command line.
    rows: the rows of metrics.jsonl that led to the latest state, by step.
    abandoned: the rows that rollbacks abandoned, one list per attempt.
    seconds: wall time of all attempts, or None if unknown.
    events: the events of events.jsonl, in order.
    history: the events without those that restarts discarded. It includes the
      events that rollbacks abandoned.
    kimg_per_step: thousand real images shown to D per step, or None if unknown.
      If the batch size has changed, the latest value.
    counts: image counts by attempt, for attempts whose batch size has changed.
    samples: sample grids by step.
    notes: a sentence for each file or line that could not be read.
  """

  place: Place
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
    """Reference values of the data: floor, baselines, classifier accuracy."""
    found: dict[str, float] = {}
    for event in self.events:
      if event.get("event") == "reference":
        found |= {k: v for k, v in event.items() if is_number(v)}
    return found

  def kimg_at(self, step: float, attempt: int | None = None) -> float | None:
    """Returns the thousand real images shown up to a step, or None if unknown.

    Args:
      step: the step.
      attempt: the attempt. None means the latest.
    """
    if self.counts:
      return count_in(self.counts, attempt).kimg(int(step))
    return None if self.kimg_per_step is None else step * self.kimg_per_step

  def series(self, name: str) -> tuple[list[float], list[float]]:
    """Returns kimg and values of a scalar in `rows`."""
    return self._columns.get(name, ([], []))

  def names(self) -> list[str]:
    """Returns the names of all scalars in order of first appearance."""
    return [name for name in self._columns if name not in _NO_SCALARS]

  @functools.cached_property
  def _columns(self) -> dict[str, tuple[list[float], list[float]]]:
    """The kimg and values of every numeric key of `rows`."""
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
    """All rows by step, including abandoned ones."""
    rows = [*self.rows, *(row for rows in self.abandoned for row in rows)]
    return sorted(rows, key=lambda row: row["step"])

  def setting(self, path: str) -> Any:
    """Returns the spec field at a dotted path, or None if unknown."""
    value: Any = self.spec
    for key in path.split("."):
      value = value.get(key) if isinstance(value, dict) else None
    return value


def series(
  rows: list[dict[str, Any]], name: str
) -> tuple[list[float], list[float]]:
  """Returns kimg and values of a scalar in the given rows."""
  points = [(r["kimg"], r[name]) for r in rows if is_number(r.get(name))]
  return [x for x, _ in points], [y for _, y in points]


def read_run(directory: str | os.PathLike[str]) -> Run:
  """Reads a run's folder.

  Args:
    directory: path or address of the folder (`bigscale train --workdir`).

  Returns:
    The run. Attributes whose files are missing are empty.

  Raises:
    ReportError: the folder does not exist or contains no run.
    SpecError: the address cannot be opened.
  """
  if not is_remote(directory) and not on_disk(directory).is_dir():
    raise ReportError(
      f"{directory} is not a folder; give the --workdir of a "
      "`bigscale train` run"
    )
  place = open_place(directory)
  if place.entry("spec.json") is None and log.read(place, "metrics") is None:
    raise ReportError(
      f"{directory} contains no run: it has neither spec.json nor "
      "metrics.jsonl; give the --workdir of a `bigscale train` run"
    )
  return read_whatever(directory)


def read_whatever(directory: str | os.PathLike[str]) -> Run:
  """Reads a folder like `read_run`, even if it contains no run yet."""
  place = open_place(directory)
  notes: list[str] = []
  description = _read_description(place, notes)
  spec = _mapping(description.get("spec"))
  images_per_step = _images_per_step(spec)
  rows = read_lines(place, "metrics", notes)
  rows = [row for row in rows if is_finite(row.get("step"))]
  for row in rows:
    if not is_finite(row.get("kimg")) and images_per_step:
      row["kimg"] = row["step"] * images_per_step / 1000
  rows = [row for row in rows if is_finite(row.get("kimg"))]
  events = _with_steps(read_lines(place, "events", notes), notes)
  history = standing(events)
  kept, abandoned = _split_attempts(rows, history)
  command = description.get("command")
  run = Run(
    place=place,
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


def _read_description(place: Place, notes: list[str]) -> dict[str, Any]:
  try:
    found = json.loads(place.read("spec.json"))
  except FileNotFoundError:
    notes.append("spec.json is missing, so the settings are unknown.")
    return {}
  except (OSError, ValueError) as error:
    notes.append(f"spec.json cannot be read: {error}.")
    return {}
  found = _mapping(found)
  # Earlier versions wrote no digest.
  if sealed.KEY in found:
    try:
      sealed.unseal(found)
    except sealed.SealError as error:
      notes.append(
        f"spec.json is corrupt ({error}); the settings may be wrong."
      )
  return found


def _mapping(value: Any) -> dict[str, Any]:
  return value if isinstance(value, dict) else {}


def read_lines(
  place: Place, name: str, notes: list[str]
) -> list[dict[str, Any]]:
  """Returns the rows of NAME.jsonl, [] if there are none.

  An incomplete last line is ignored. For other unreadable lines, a note is
  added to `notes`.
  """
  file = log.file_name(name)
  try:
    lines = (log.read(place, name) or b"").split(b"\n")
  except OSError as error:
    notes.append(f"{file} cannot be read: {error.strerror or error}.")
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
    notes.append(f"{file} has unreadable lines: {unreadable}.")
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
  """Returns events without steps that are not finite numbers.

  If there are such steps, a note is added to `notes`.
  """
  invalid, cleaned = 0, []
  for event in events:
    wrong = [k for k in _STEPS if k in event and not is_finite(event[k])]
    invalid += any(event[k] is not None for k in wrong)
    cleaned.append({k: v for k, v in event.items() if k not in wrong})
  if invalid:
    notes.append(f"events.jsonl has events with invalid steps: {invalid}.")
  return cleaned


def _split_attempts(
  rows: list[dict[str, Any]], history: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
  """Splits rows into those that led to the latest state and abandoned ones.

  Abandoned rows are grouped by attempt.
  """
  first: dict[int, float] = {}
  for row in rows:
    attempt = attempt_of(row)
    first[attempt] = min(row["step"], first.get(attempt, math.inf))
  # A new attempt may have no row yet.
  for event in history:
    if event.get("event") == "rollback" and is_finite(event.get("to_step")):
      attempt = attempt_of(event)
      start = event["to_step"] + 1
      first[attempt] = min(start, first.get(attempt, math.inf))
  # An attempt abandons the rows of all earlier attempts from its first step on.
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
  """Returns the sum of the clocks, which restart from 0 at each start."""
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
  for entry in run.place.list("samples/"):
    name = entry.name.removeprefix("samples/")
    stem = name.removesuffix(".png")
    if stem == name or not stem.isdecimal():
      continue
    start = run.place.read_range(entry.name, 0, len(_PNG_SIGNATURE))
    if start != _PNG_SIGNATURE:
      run.notes.append(f"{entry.name} is not a PNG image.")
      continue
    step = int(stem)
    kimg = kimg_of.get(step, run.kimg_at(step))
    samples.append(Sample(name=entry.name, step=step, kimg=kimg))
  return sorted(samples, key=lambda sample: sample.step)
