"""Writers of metrics, TensorBoard events and progress.

Only process 0 creates these writers.
"""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

from bigscale import temporary
from bigscale.place import on_disk

_log = logging.getLogger(__name__)

# Writes a file, given its name in the run's folder and its content.
Write = Callable[[str, bytes], None]

_SECONDS_BETWEEN_LINES = 30.0
_SHOWN_LOSSES = ("d/loss", "g/loss")
# JSON has no such numbers, and `null` would be ambiguous.
_NOT_FINITE = {
  "NaN": math.nan,
  "Infinity": math.inf,
  "-Infinity": -math.inf,
}


class JsonLines:
  """An append-only file with one JSON object per line.

  Numbers that JSON does not support are written as the strings "NaN",
  "Infinity" and "-Infinity"; `rows` reads them back as floats. `write` passes
  each row to the operating system before it returns, so a killed process loses
  at most one line. The next `JsonLines` on the file removes an incomplete last
  line. The file is open only during a write and needs no closing.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Opens the file at `path`, creating it and its folders if missing.

    Raises:
      OSError: if the file is not writable.
    """
    self.path = on_disk(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    with self.path.open("ab+") as file:
      file.seek(0)
      written = file.read()
      whole = written.rfind(b"\n") + 1
      if whole < len(written):
        file.truncate(whole)

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends one row.

    Args:
      row: values by name: numbers, strings, None, or lists and mappings of
        them. NumPy and JAX scalars are converted.
    """
    with self.path.open("ab") as file:
      file.write(line_of(row))

  def rows(self) -> list[dict[str, Any]]:
    """Returns all rows in order, with non-finite numbers restored."""
    return parse_lines(self.path.read_bytes())

  def truncate_after(self, step: int, attempt: int = 0) -> None:
    """Removes the rows that a run restored at (`attempt`, `step`) will rewrite.

    Rows of earlier attempts stay, because they are not repeated. Rows of later
    attempts are removed, because their numbers will be reused. Rows of this
    attempt without a `step` stay. Rows without an `attempt` belong to attempt
    0. Remaining lines keep their bytes, and unreadable lines are removed. The
    file is replaced atomically.

    Args:
      step: last step of the restored state.
      attempt: attempt of the restored state.
    """
    kept = without_repeated(self.path.read_bytes(), step, attempt)
    with temporary.replacing(self.path) as partial:
      partial.write_bytes(kept)


def line_of(row: Mapping[str, Any]) -> bytes:
  """Returns a row as one line of JSON; see `JsonLines`."""
  line = json.dumps(_to_json(row), allow_nan=False, ensure_ascii=False)
  # File names may not be valid Unicode. \udcXX is also a JSON escape.
  return line.encode(errors="backslashreplace") + b"\n"


def parse_lines(content: bytes) -> list[dict[str, Any]]:
  """Returns the rows in the lines of a file, without unreadable lines."""
  lines = map(_parse, content.splitlines())
  return [_from_json(row) for row in lines if row is not None]


def without_repeated(content: bytes, step: int, attempt: int) -> bytes:
  """Returns the lines that `JsonLines.truncate_after` keeps."""
  kept = []
  for line in content.splitlines(keepends=True):
    row = _parse(line)
    if row is None:
      continue
    written_in = row.get("attempt", 0)
    if written_in < attempt or (
      written_in == attempt and row.get("step", step) <= step
    ):
      kept.append(line)
  return b"".join(kept)


def _parse(line: bytes) -> dict[str, Any] | None:
  """Returns the JSON object on a line, or None if there is none."""
  try:
    row = json.loads(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _to_json(value: Any) -> Any:
  """Converts values to types that `json` writes as valid JSON."""
  if isinstance(value, Mapping):
    return {str(key): _to_json(entry) for key, entry in value.items()}
  if isinstance(value, (list, tuple)):
    return [_to_json(entry) for entry in value]
  if value is None or isinstance(value, (str, bool, int)):
    return value
  if not isinstance(value, float):
    array = np.asarray(value)  # scalars and arrays of NumPy and JAX
    if array.dtype == object:
      raise TypeError(
        f"{value!r} cannot be written to a row; use numbers, strings, None, or "
        "lists and mappings of them"
      )
    if array.dtype.kind not in "biufU":
      array = array.astype(np.float64)  # bfloat16 and similar dtypes
    return _to_json(array.tolist())
  if math.isfinite(value):
    return value
  if math.isnan(value):
    return "NaN"
  return "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _from_json(entry) for key, entry in value.items()}
  if isinstance(value, list):
    return [_from_json(entry) for entry in value]
  return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


class TensorBoard:
  """Writes scalars and images as TensorBoard events, using clu's writers.

  clu's writers need TensorFlow and tensorboard. If one is missing, a warning
  explains how to install it, and all calls do nothing; `metrics.jsonl` contains
  the same scalars. Events cannot be removed, so steps repeated after a restart
  appear twice here and once in `metrics.jsonl`.

  Attributes:
    active: whether events are written.
  """

  def __init__(self, directory: str | os.PathLike[str]) -> None:
    self._writer = None
    try:
      from clu import metric_writers
    except ImportError as error:
      _log.warning(
        "TensorBoard events are not written: %s. The scalars are in "
        "metrics.jsonl and the report. For TensorBoard, run "
        "pip install 'bigscale[tensorboard]', or set log.tensorboard=False "
        "to silence this warning.",
        error,
      )
    else:
      self._writer = metric_writers.SummaryWriter(os.fspath(directory))

  @property
  def active(self) -> bool:
    """Whether events are written."""
    return self._writer is not None

  def scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Writes one value for each name."""
    if self._writer is not None:
      self._writer.write_scalars(step, dict(scalars))

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Writes one image.

    Args:
      step: number of steps done.
      name: tag of the image.
      image: [H, W, C] uint8, C = 1 or 3.
    """
    if self._writer is not None:
      self._writer.write_images(step, {name: image[None]})

  def flush(self) -> None:
    """Flushes buffered events to disk."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the writer; later calls do nothing."""
    if self._writer is not None:
      self._writer.flush()
      self._writer.close()
      self._writer = None


class Progress:
  """Shows the progress of training.

  On a terminal, this is a tqdm bar with the remaining time, images per second
  and losses. Otherwise (a log file, a scheduler), it prints one plain line
  about every 30 seconds and one at the end.
  """

  def __init__(
    self,
    total_steps: int,
    initial_step: int = 0,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Starts the display.

    Args:
      total_steps: number of steps of the whole run.
      initial_step: number of steps done before this start.
      stream: output stream; None means standard error.
      clock: monotonic clock in seconds.
    """
    self._total = total_steps
    self._step = initial_step
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._scalars: dict[str, float] = {}
    self._first: tuple[int, float] | None = None
    self._last_line = clock()
    self._line_step = initial_step
    self._bar = None
    if self._stream.isatty():
      from tqdm import tqdm

      self._bar = tqdm(
        total=total_steps,
        initial=initial_step,
        file=self._stream,
        unit="step",
        dynamic_ncols=True,
      )

  def update(
    self, step: int, scalars: Mapping[str, float] | None = None
  ) -> None:
    """Updates the display.

    Args:
      step: total number of steps done.
      scalars: newest scalars, named as in `metrics.jsonl`. The losses and
        `perf/images_per_second` are shown. None keeps the previous ones.
    """
    if scalars is not None:
      self._scalars = dict(scalars)
    if self._bar is not None:
      if scalars is not None:
        self._bar.set_postfix_str(", ".join(self._shown()), refresh=False)
      self._bar.update(step - self._step)
      self._step = step
      return
    self._step = step
    now = self._clock()
    if self._first is None:
      # The first step includes compilation, so the pace is measured after it.
      self._first = (step, now)
    if now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self._print_line(now)

  def go_back(self, step: int, total_steps: int | None = None) -> None:
    """Moves the display back to an earlier step.

    Args:
      step: total number of steps done.
      total_steps: new number of steps of the whole run; None keeps the old one.
    """
    self._total = self._total if total_steps is None else total_steps
    if self._bar is not None:
      self._bar.total = self._total
      self._bar.update(step - self._step)
    self._step = self._line_step = step
    # Restart the measurement of the pace.
    self._first = None

  def note(self, text: str) -> None:
    """Prints a line without breaking the bar."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Closes the bar or prints the last line; later calls do nothing."""
    if self._bar is not None:
      self._bar.close()
    elif self._line_step != self._step:
      self._print_line(self._clock())

  def _print_line(self, now: float) -> None:
    parts = [
      f"step {self._step}/{self._total} "
      f"({100 * self._step / max(self._total, 1):.1f}%)",
      *self._shown(),
    ]
    first_step, first_time = self._first or (self._step, now)
    if first_step < self._step < self._total:
      pace = (now - first_time) / (self._step - first_step)
      parts.append(f"{_duration(pace * (self._total - self._step))} left")
    print(", ".join(parts), file=self._stream, flush=True)
    self._last_line, self._line_step = now, self._step

  def _shown(self) -> list[str]:
    shown = []
    rate = self._scalars.get("perf/images_per_second")
    if rate is not None:
      shown.append(f"{rate:,.0f} images/s")
    for name in _SHOWN_LOSSES:
      if name in self._scalars:
        shown.append(f"{name} {self._scalars[name]:.4g}")
    return shown


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}"
