"""Stops restarts of a run that makes no progress.

Launchers restart a run if its exit code is 76: a process was killed or hung. If
that happens at the same step after each start, all restarts would be wasted.
Therefore, the supervisor counts consecutive starts that ended with 76 and made
no progress, in a file in the run folder. After `MAX_LOST_STARTS` of them, it
changes the exit code to 1, which no launcher restarts. Progress is a newly
saved step or a row in metrics.jsonl for a later step than before.

A start that was asked to end (SIGTERM) is not counted, with or without
progress: losing a machine says nothing about the run.
"""

import contextlib
import json
import os
from typing import NamedTuple

from bigscale.place import Place, log, open_place
from bigscale.train import step_names

# Maximum consecutive starts without progress.
MAX_LOST_STARTS = 3
FILE = ".lives"
_LOST, _BUG = 76, 1
_SAVES = ("checkpoints", "healthy")
_ROWS = "metrics"
# Bytes read from the end of the metrics, enough for several rows.
_TAIL_BYTES = 1 << 20


class _Record(NamedTuple):
  """Content of the file.

  Attributes:
    saved: saved steps.
    furthest: largest step that has a row; 0 if there is none.
    lost: consecutive starts that ended with 76 without progress.
  """

  saved: list[str]
  furthest: int
  lost: int


_EMPTY = _Record([], 0, 0)


class Life:
  """One start of a run, up to its exit code."""

  def __init__(self, workdir: str | os.PathLike[str]) -> None:
    """Records the progress before the start.

    Args:
      workdir: run folder, which may not exist yet.
    """
    self._folder = open_place(workdir)
    self._saved = _saved_in(self._folder)
    record = _read(self._folder)
    # Launchers stop after `MAX_LOST_STARTS`, so a later start is manual and
    # resets the count.
    is_current = record.saved == self._saved and record.lost < MAX_LOST_STARTS
    record = record if is_current else _EMPTY
    self._lost = record.lost
    # A resumed run removes the rows after its checkpoint, so the file also
    # records the largest step seen.
    self._furthest = max(record.furthest, _furthest_in(self._folder))

  def end(self, code: int, asked: bool) -> tuple[int, str]:
    """Counts this start if it ended with 76 without progress.

    If a run has several supervisors, all of them read the same count before the
    start and write the same count after it.

    Args:
      code: exit code of the processes.
      asked: whether the processes were asked to end.

    Returns:
      The exit code and "", or 1 instead of 76 and the reason if the run must
      not be restarted.
    """
    if asked or code != _LOST or _saved_in(self._folder) != self._saved:
      return code, ""
    furthest = _furthest_in(self._folder)
    lost = 0 if furthest > self._furthest else self._lost + 1
    self._write(_Record(self._saved, max(furthest, self._furthest), lost))
    if lost < MAX_LOST_STARTS:
      return code, ""
    return _BUG, (
      f"{lost} consecutive starts were killed or hung before they got past "
      f"step {self._furthest}; the run in {self._folder.url} will not be "
      "restarted automatically. Find the reason in the log above (memory, a "
      "hang, a lost machine), fix it, and start the run again"
    )

  def _write(self, record: _Record) -> None:
    with contextlib.suppress(OSError):
      self._folder.write(FILE, json.dumps(record._asdict()).encode())


def _saved_in(folder: Place) -> list[str]:
  """Returns the names of all completely saved steps."""
  found: set[str] = set()
  for part in _SAVES:
    with contextlib.suppress(OSError):
      found |= set(map(str, step_names.complete(folder.folder(part))))
  return sorted(found)


def _furthest_in(folder: Place) -> int:
  """Returns the largest step in the last rows; 0 if there are none."""
  try:
    lines = log.tail(folder, _ROWS, _TAIL_BYTES).splitlines()
  except OSError:
    return 0
  furthest = 0
  for line in lines:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
      furthest = max(furthest, int(json.loads(line).get("step", 0)))
  return furthest


def _read(folder: Place) -> _Record:
  try:
    record = _Record(**json.loads(folder.read(FILE)))
  except (OSError, ValueError, TypeError):
    return _EMPTY
  valid = type(record.lost) is int and type(record.furthest) is int
  return record if valid else _EMPTY
