"""Checks of the files that commands write, on a disk or a bucket."""

import os

from bigscale.place import is_remote, on_disk, open_place, parent_and_name
from bigscale.spec import require


def check(out: str) -> str:
  """Checks the value of --out before anything is computed.

  Args:
    out: path or address of a file.

  Returns:
    `out`.

  Raises:
    SpecError: its folder does not exist, it is a folder, or its bucket cannot
      be accessed.
  """
  folder, _ = parent_and_name(out)
  if is_remote(out):
    open_place(folder)
    return out
  require(
    os.path.isdir(folder or "."),
    f"--out={out}: there is no folder {folder}; create it first",
  )
  require(
    not on_disk(out).is_dir(),
    f"--out={out} is a folder; give the name of a file in it",
  )
  return out
