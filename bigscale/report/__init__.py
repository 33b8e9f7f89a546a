"""Writes a run's folder as one self-contained HTML page.

The page is made only from files, so it can be written on any machine, by any
later version, and while the run is still training.
"""

import os
import pathlib

from bigscale import temporary
from bigscale.report.read import ReportError, read_run

__all__ = ["ReportError", "write_report"]


def write_report(run_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `report.html` into a run's folder atomically.

  The page omits what the run does not have yet, such as evaluations, samples or
  even training steps. It lists files that cannot be read.

  Args:
    run_dir: folder of the run (`bigscale train --workdir`).

  Returns:
    The path of the page. Curves and images are embedded in it. It has no
    scripts and loads no other files.

  Raises:
    ReportError: the folder does not exist, contains no run, or is not writable.
  """
  run = read_run(pathlib.Path(run_dir))
  # Imported late, because it imports matplotlib.
  from bigscale.report.page import render

  page = render(run)
  path = run.directory / "report.html"
  try:
    with temporary.replacing(path) as partial:
      partial.write_bytes(page.encode(errors="backslashreplace"))
  except OSError as error:
    raise ReportError(
      f"cannot write {path}: {error.strerror}; make the folder writable, or "
      "copy the run and write the report of the copy"
    ) from error
  return path
