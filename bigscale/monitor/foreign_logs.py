"""Reads the logs of other trainers into rows of a trace.

Formats:
  - BigGAN-PyTorch: a folder with a file `NAME.log` for each scalar, whose lines
    are `ITERATION: VALUE`, and a file `*_log.jsonl` of scores.
  - StyleGAN2-ADA, StyleGAN3, R3GAN: a folder with `stats.jsonl` and files
    `metric-*.jsonl`. A step is one image shown to D.
  - TensorBoard: a folder with event files, or an event file.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bigscale.spec.base import SpecError

# Names of the column of steps, in lower case.
STEPS = (
  *("step", "_step", "global_step", "itr", "iter", "iteration", "iterations"),
)
# Names of the column of thousands of images, in lower case.
KIMG = ("kimg", "progress/kimg")
_SNAPSHOT = re.compile(r"(\d+)\.\w+$")
_EVENTS = "events.out.tfevents"

Rows = list[tuple[int, dict[str, Any]]]


def reader_of(path: pathlib.Path) -> Callable[[pathlib.Path], Rows] | None:
  """Returns the reader of a foreign log; None if `path` is not such a log."""
  if path.is_file():
    if _EVENTS in path.name:
      return lambda file: _read_events([file])
    return (lambda file: _read_logs([file])) if _is_log(path) else None
  if not path.is_dir():
    return None
  if (path / "stats.jsonl").is_file():
    return _read_stylegan
  events = sorted(path.rglob(f"*{_EVENTS}*"))
  if events:
    return lambda _: _read_events(events)
  logs = [file for file in sorted(path.glob("*.log")) if _is_log(file)]
  if logs:
    return lambda folder: _read_logs([*logs, *sorted(folder.glob("*.jsonl"))])
  return None


def json_row(line: str) -> tuple[int, dict[str, Any]] | None:
  """Returns the step and the scalars of a JSON line, or None without a step.

  Statistics such as StyleGAN's {"num": 5, "mean": 0.3, "std": 0.1} become their
  mean. Scores of StyleGAN get the step of the snapshot that was scored.
  """
  try:
    row = json.loads(line)
  except ValueError:
    return None
  if not isinstance(row, dict):
    return None
  scalars = {
    name: value.get("mean") if isinstance(value, dict) else value
    for name, value in row.items()
  }
  results = row.get("results")
  if isinstance(results, dict):
    found = _SNAPSHOT.search(str(row.get("snapshot_pkl")))
    if not found:
      return None
    return 1000 * int(found[1]), {f"metric/{k}": v for k, v in results.items()}
  step = step_of(scalars)
  if step is None:
    return None
  known = (*STEPS, *KIMG)
  return step, {k: v for k, v in scalars.items() if k.lower() not in known}


def step_of(row: Mapping[str, Any]) -> int | None:
  """Returns the step of a row, or its number of images; None without either."""
  lower = {name.lower(): value for name, value in row.items()}
  for name in (*STEPS, *KIMG):
    value = lower.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      continue
    value = value * 1000 if name in KIMG else value
    # JSON files written by Python may contain NaN and Infinity.
    if not abs(value) < 2**63:
      continue
    whole = round(value)
    if whole >= 0 and (name in KIMG or whole == value):
      return whole
  return None


def merged(parts: Iterable[tuple[int, Mapping[str, Any]]]) -> Rows:
  """Returns one row per step, in order. Later values replace earlier ones."""
  rows: dict[int, dict[str, Any]] = {}
  for step, scalars in parts:
    rows.setdefault(step, {}).update(scalars)
  return sorted(rows.items())


def _read_stylegan(folder: pathlib.Path) -> Rows:
  files = [folder / "stats.jsonl", *sorted(folder.glob("metric-*.jsonl"))]
  parts = []
  ticks: list[int] = []
  for file in files:
    for line in _lines(file):
      row = json_row(line)
      if row is None:
        continue
      step, scalars = row
      if file.name == "stats.jsonl":
        ticks.append(step)
      else:
        # A snapshot's name contains only whole thousands of images.
        step = max((t for t in ticks if t < step + 1000), default=step)
      parts.append((step, scalars))
  return merged(parts)


def _is_log(file: pathlib.Path) -> bool:
  if file.suffix != ".log":
    return False
  first = next(iter(_lines(file)), "")
  return _log_line(first) is not None


def _log_line(line: str) -> tuple[int, float] | None:
  step, colon, value = line.partition(":")
  try:
    return (int(step), float(value)) if colon else None
  except ValueError:
    return None


def _read_logs(files: Iterable[pathlib.Path]) -> Rows:
  parts = []
  for file in files:
    for line in _lines(file):
      if file.suffix == ".jsonl":
        row = json_row(line)
      else:
        pair = _log_line(line)
        row = pair and (pair[0], {file.stem: pair[1]})
      if row is not None:
        parts.append(row)
  return merged(parts)


def _lines(file: pathlib.Path) -> list[str]:
  text = file.read_text(encoding="utf-8", errors="replace")
  return [line for line in text.split("\n") if line.strip()]


def _read_events(files: list[pathlib.Path]) -> Rows:
  """Reads the scalars that PyTorch, TensorFlow and JAX write."""
  try:
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util
  except ImportError:
    raise SpecError(
      f"{files[0]} is a TensorBoard event file, and reading it needs the "
      "package tensorboard; run: pip install tensorboard"
    ) from None
  folders = {file.parent for file in files}
  parts = []
  for file in files:
    # The prefix separates equal tags of different folders, such as train/ and
    # eval/.
    prefix = f"{file.parent.name}/" if len(folders) > 1 else ""
    for event in event_file_loader.EventFileLoader(str(file)).Load():
      for value in event.summary.value:
        # The loader converts scalars of all writers to tensors.
        array = tensor_util.make_ndarray(value.tensor)
        if array.size == 1 and array.dtype.kind in "fiu":
          scalars = {f"{prefix}{value.tag}": float(array.reshape(()))}
          parts.append((event.step, scalars))
  return merged(parts)
