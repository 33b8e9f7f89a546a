"""A run's folder as one HTML page that needs nothing else to be read.

The page is made from files alone, so it can be made for a run of any age, on
any machine, while the run goes on.
"""

import os
import pathlib

from bigscale import temporary
from bigscale.report.read import ReportError, read_run

__all__ = ["ReportError", "write_report"]


def write_report(run_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Writes `report.html` into a run's folder, whole or not at all.

  What the run has not made yet (evaluations, samples, any step at all) is
  left out of the page; files that cannot be read are named on it.

  Args:
    run_dir: the folder given to `bigscale train --workdir`.

  Returns:
    The path of the page: one file with curves and images inside, without
    scripts and without anything to fetch.

  Raises:
    ReportError: the folder does not exist, holds no run, or cannot be written.
  """
  run = read_run(pathlib.Path(run_dir))
  # Here and not above: drawing imports matplotlib.
  from bigscale.report.page import render

  page = render(run)
  path = run.directory / "report.html"
  try:
    with temporary.replacing(path) as partial:
      partial.write_bytes(page.encode(errors="backslashreplace"))
  except OSError as error:
    raise ReportError(
      f"cannot write {path}: {error.strerror}; make the folder writable, or "
      "copy the run and report on the copy"
    ) from error
  return path
