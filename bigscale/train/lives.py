"""Counts starts in a row that were lost without a new step.

Whoever starts a run again does so by its exit code: 76 says that a process was
killed, or hung. Where that comes at the same place each time, it would go on
until the restarts are used up. So the supervisor counts the starts that ended
so and came to no new step, in a file of the run's folder, and turns the last
one into code 1, which no launcher starts again. A new step is one that was
saved, or a row of metrics.jsonl that is further than any before.

A start that was asked to end (SIGTERM) is not counted, whether it came to a
step or not: machines that are taken away say nothing of the run.
"""

import contextlib
import json
import os
import pathlib
from typing import NamedTuple

# In a row.
MOST = 3
FILE = ".lives"
_LOST, _BUG = 76, 1
_SAVES = ("checkpoints", "healthy")
_ROWS = "metrics.jsonl"
# Of the end of the rows, which hold more than one.
_LOOKED_AT = 1 << 20


class _Noted(NamedTuple):
  """What the file says.

  Attributes:
    saved: the steps that there were.
    furthest: the furthest step that has a row, 0 where none has.
    lost: starts in a row that have left both so.
  """

  saved: list[str]
  furthest: int
  lost: int


_NOTHING = _Noted([], 0, 0)


class Life:
  """One start of a run, from before it to its exit code."""

  def __init__(self, workdir: str | os.PathLike[str]) -> None:
    """Notes what is saved before the start.

    Args:
      workdir: folder of the run, which need not be there yet.
    """
    self._folder = pathlib.Path(workdir).expanduser()
    self._saved = _saved_in(self._folder)
    noted = _read(self._folder)
    # After the last one somebody has looked, and starts it all the same.
    goes_on = noted.saved == self._saved and noted.lost < MOST
    noted = noted if goes_on else _NOTHING
    self._lost = noted.lost
    # Rows that follow the save are cut by who resumes from it.
    self._furthest = max(noted.furthest, _furthest_in(self._folder))

  def end(self, code: int, asked: bool) -> tuple[int, str]:
    """Counts a start that was lost without a new step.

    Several supervisors of one run count together: all read the same number
    before, and write the same.

    Args:
      code: that the processes ended with.
      asked: whether they were told to end.

    Returns:
      The exit code, 1 in place of 76 where it is not to be started again, and
      then why.
    """
    if asked or code != _LOST or _saved_in(self._folder) != self._saved:
      return code, ""
    furthest = _furthest_in(self._folder)
    lost = 0 if furthest > self._furthest else self._lost + 1
    self._note(_Noted(self._saved, max(furthest, self._furthest), lost))
    if lost < MOST:
      return code, ""
    return _BUG, (
      f"{lost} starts in a row were killed or hung and came to no step after "
      f"{self._furthest}, so that the run in {self._folder} is not to be "
      "started again; look above for the reason (memory, a hang, a lost "
      "machine), mend it, and start the run anew"
    )

  def _note(self, noted: _Noted) -> None:
    own = self._folder / f"{FILE}.{os.getpid()}.tmp"
    with contextlib.suppress(OSError):
      self._folder.mkdir(parents=True, exist_ok=True)
      own.write_text(json.dumps(noted._asdict()))
      own.replace(self._folder / FILE)


def _saved_in(folder: pathlib.Path) -> list[str]:
  """The names of the steps that are saved whole."""
  found: set[str] = set()
  for part in _SAVES:
    with contextlib.suppress(OSError):
      found |= {name for name in os.listdir(folder / part) if name.isdecimal()}
  return sorted(found)


def _furthest_in(folder: pathlib.Path) -> int:
  """The furthest step of the last rows; 0 where there are none."""
  try:
    with (folder / _ROWS).open("rb") as file:
      file.seek(max(0, file.seek(0, os.SEEK_END) - _LOOKED_AT))
      lines = file.read().splitlines()
  except OSError:
    return 0
  furthest = 0
  for line in lines:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
      furthest = max(furthest, int(json.loads(line).get("step", 0)))
  return furthest


def _read(folder: pathlib.Path) -> _Noted:
  try:
    noted = _Noted(**json.loads((folder / FILE).read_bytes()))
  except (OSError, ValueError, TypeError):
    return _NOTHING
  sound = type(noted.lost) is int and type(noted.furthest) is int
  return noted if sound else _NOTHING
