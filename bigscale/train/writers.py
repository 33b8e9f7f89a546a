"""What a training writes while it runs: rows, TensorBoard events, progress.

Only process 0 makes these writers; the others make none.
"""

import json
import logging
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import numpy as np

from bigscale import temporary

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 30.0
_SHOWN_LOSSES = ("d/loss", "g/loss")
# JSON has no such numbers, and `null` would not say which one it was.
_NOT_FINITE = {
  "NaN": math.nan,
  "Infinity": math.inf,
  "-Infinity": -math.inf,
}


class JsonLines:
  """An append-only file of JSON objects, one a line.

  Numbers that JSON cannot hold are written as the texts "NaN", "Infinity" and
  "-Infinity"; `rows` reads them back as floats. A row is with the system when
  `write` returns, so a killed process loses at most the line it was writing.
  That torn line is cut by the next `JsonLines` made on the file. The file is
  open only while a row is written: nothing needs closing.
  """

  def __init__(self, path: str | os.PathLike[str]) -> None:
    """Goes on with the file at `path`, made with its folders if missing.

    Raises:
      OSError: the file cannot be written.
    """
    self.path = pathlib.Path(path)
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
      row: names to numbers, texts, None, or lists and mappings of them; NumPy
        and JAX scalars are numbers too.
    """
    line = json.dumps(_to_json(row), allow_nan=False, ensure_ascii=False)
    with self.path.open("ab") as file:
      # Names of files need not be Unicode; \udcXX is an escape of JSON, too.
      file.write(line.encode(errors="backslashreplace") + b"\n")

  def rows(self) -> list[dict[str, Any]]:
    """All rows, in the order written, numbers that are not finite restored."""
    lines = self.path.read_bytes().splitlines()
    return [_from_json(row) for row in map(_parse, lines) if row is not None]

  def truncate_after(self, step: int, attempt: int = 0) -> None:
    """Cuts what a run restored at (`attempt`, `step`) will write again.

    Rows of earlier attempts stay, since nothing will replay them; rows of
    later ones go, since their number will be used again. Rows without a
    `step` stay with their attempt; rows without an `attempt` belong to
    attempt 0. Lines that stay keep their bytes; lines that a failing disk
    left unreadable go. The file is replaced whole.

    Args:
      step: the last step that the restored state has taken.
      attempt: the restored attempt.
    """
    kept = []
    for line in self.path.read_bytes().splitlines(keepends=True):
      row = _parse(line)
      if row is None:
        continue
      written_in = row.get("attempt", 0)
      if written_in < attempt or (
        written_in == attempt and row.get("step", step) <= step
      ):
        kept.append(line)
    with temporary.replacing(self.path) as partial:
      partial.write_bytes(b"".join(kept))


def _parse(line: bytes) -> dict[str, Any] | None:
  """The object on a line, or None where there is none to be read."""
  try:
    row = json.loads(line)
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _to_json(value: Any) -> Any:
  """Plain values that `json` writes as valid JSON."""
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
        f"{value!r} has no place in a row; use numbers, texts, None, or lists "
        "and mappings of them"
      )
    if array.dtype.kind not in "biufU":
      array = array.astype(np.float64)  # bfloat16 and its kin
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
  """Scalars and images as TensorBoard events, through clu's writers.

  clu's writers need TensorFlow and tensorboard. Where one is missing, a note
  says once how to get them, and every call does nothing: `metrics.jsonl` holds
  the same numbers. Events cannot be taken back, so steps replayed after a
  restart appear twice here and once in `metrics.jsonl`.

  Attributes:
    active: whether events are written.
  """

  def __init__(self, directory: str | os.PathLike[str]) -> None:
    self._writer = None
    try:
      from clu import metric_writers
    except ImportError as error:
      _log.warning(
        "TensorBoard events are not written: %s. The numbers are in "
        "metrics.jsonl and the report; for TensorBoard as well, "
        "pip install 'bigscale[tensorboard]', or set log.tensorboard=False "
        "to silence this note.",
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
    """Writes one picture, as `bigscale.sampling.grid.grid` makes it.

    Args:
      step: steps taken.
      name: the tag to show it under.
      image: [H, W, C] uint8, C = 1 or 3.
    """
    if self._writer is not None:
      self._writer.write_images(step, {name: image[None]})

  def flush(self) -> None:
    """Sends what is buffered to the disk."""
    if self._writer is not None:
      self._writer.flush()

  def close(self) -> None:
    """Flushes and ends; later calls do nothing."""
    if self._writer is not None:
      self._writer.flush()
      self._writer.close()
      self._writer = None


class Progress:
  """How far the training is: a bar on a terminal, else a line now and then.

  On a terminal, a tqdm bar with the time left, images a second and losses.
  Elsewhere (a log file, a scheduler) one plain line about every 30 seconds,
  and one at the end.
  """

  def __init__(
    self,
    total_steps: int,
    initial_step: int = 0,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ) -> None:
    """Starts at `initial_step`, the step a resumed run continues from.

    Args:
      total_steps: steps of the whole run.
      initial_step: steps taken before.
      stream: where to write; None is standard error.
      clock: seconds from any origin, never going back.
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
    """Moves on to `step`.

    Args:
      step: steps taken in all.
      scalars: newest values under the names of `metrics.jsonl`; the losses
        and `perf/images_per_second` are shown. None keeps those shown.
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
      # Time is counted from the first step taken: it compiles the program and
      # would spoil the estimate.
      self._first = (step, now)
    if now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self._print_line(now)

  def go_back(self, step: int, total_steps: int | None = None) -> None:
    """Moves back to a step from which the run starts again.

    Args:
      step: steps taken in all.
      total_steps: of the whole run, where that is another number now.
    """
    self._total = self._total if total_steps is None else total_steps
    if self._bar is not None:
      self._bar.total = self._total
      self._bar.update(step - self._step)
    self._step = self._line_step = step
    # The pace is taken anew.
    self._first = None

  def note(self, text: str) -> None:
    """Prints a line of its own without breaking the bar."""
    if self._bar is not None:
      self._bar.write(text, file=self._stream)
    else:
      print(text, file=self._stream, flush=True)

  def close(self) -> None:
    """Ends the bar, or prints the last line; more closes do nothing."""
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
