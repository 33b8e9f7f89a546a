"""Whether a run gets on: its starts in a row that were lost without a save.

Whoever starts a run again does so by its exit code: 76 says that a process was
killed, or hung. Where that comes at the same place each time, it would go on
until the restarts are used up. So the supervisor counts the starts that ended
so and saved no step, in a file of the run's folder, and turns the last one into
code 1, which no launcher starts again.

A start that was asked to end (SIGTERM) is not counted, whether it came to a
save or not: machines that are taken away say nothing of the run.
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


class _Noted(NamedTuple):
  """What the file says.

  Attributes:
    saved: the steps that there were.
    lost: starts in a row that have left them so.
  """

  saved: list[str]
  lost: int


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
    self._lost = noted.lost if goes_on else 0

  def end(self, code: int, asked: bool) -> tuple[int, str]:
    """Counts it, where it is to be counted.

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
    lost = self._lost + 1
    with contextlib.suppress(OSError):
      self._folder.mkdir(parents=True, exist_ok=True)
      text = json.dumps(_Noted(self._saved, lost)._asdict())
      own = self._folder / f"{FILE}.{os.getpid()}.tmp"
      own.write_text(text)
      own.replace(self._folder / FILE)
    if lost < MOST:
      return code, ""
    newest = max(map(int, self._saved), default=None)
    where = "a first step" if newest is None else f"a step after {newest}"
    return _BUG, (
      f"{lost} starts in a row were killed or hung before {where} was saved, "
      f"so that {self._folder} does not get on and is not to be started again; "
      "look above for the reason (memory, a hang, a lost machine), mend it and "
      "start the run anew, or save more often (checkpoint.kimg)"
    )


def _saved_in(folder: pathlib.Path) -> list[str]:
  """The names of the steps that are saved whole."""
  found: set[str] = set()
  for part in _SAVES:
    with contextlib.suppress(OSError):
      found |= {name for name in os.listdir(folder / part) if name.isdecimal()}
  return sorted(found)


def _read(folder: pathlib.Path) -> _Noted:
  try:
    noted = _Noted(**json.loads((folder / FILE).read_bytes()))
    return noted if type(noted.lost) is int else _Noted([], 0)
  except (OSError, ValueError, TypeError):
    return _Noted([], 0)
