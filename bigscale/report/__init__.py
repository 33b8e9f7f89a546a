"""Writes a run's folder as one self-contained HTML page.

The page is made only from files, so it can be written on any machine, by any
later version, and while the run is still training.
"""

import os

from etils import epath

from bigscale.place import open_object
from bigscale.place.paths import path_of
from bigscale.report.read import ReportError, read_run

__all__ = ["FILE", "ReportError", "write_report"]

FILE = "report.html"


def write_report(
  run_dir: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> epath.Path:
  """Writes the report of a run atomically.

  The page omits what the run does not have yet, such as evaluations, samples or
  even training steps. It lists files that cannot be read.

  Args:
    run_dir: path or address of the run's folder (`bigscale train --workdir`).
    out: path or address of the page; None is `report.html` in the folder.

  Returns:
    The path or address of the page. Curves and images are embedded in it. It
    has no scripts and loads no other files.

  Raises:
    ReportError: the folder does not exist, contains no run, or the page cannot
      be written.
    SpecError: an address cannot be opened.
  """
  run = read_run(run_dir)
  # Imported late, because it imports matplotlib.
  from bigscale.report.page import render

  page = render(run)
  path = path_of(run.place.url) / FILE if out is None else path_of(out)
  try:
    place, name = open_object(path)
    place.write(name, page.encode(errors="backslashreplace"))
  except OSError as error:
    raise ReportError(
      f"cannot write {path}: {error.strerror or error}; make the folder "
      "writable, or give another --out"
    ) from error
  return path
