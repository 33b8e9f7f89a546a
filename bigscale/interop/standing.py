"""The file of an imported run that holds a table of batch norm's statistics.

It lies beside the checkpoints, not in them: the statistics are of the weights
as they were published, and of no later step. The notes of the checkpoint of
step 0 carry the file's digest.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.interop.files import FileError, sha256

FILE = "standing_statistics.npz"


def save(
  folder: str | os.PathLike[str], table: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Writes a table and returns what the checkpoint's notes say of it.

  Args:
    folder: of the run.
    table: by path of our leaves, [N, C] each; row i is of truncation
      i / (N - 1).
  """
  path = pathlib.Path(folder) / FILE
  np.savez(path, **table)
  rows = {len(row) for row in table.values()}
  return {"file": FILE, "truncations": max(rows), "sha256": sha256(path)}


def read(
  folder: str | os.PathLike[str], notes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Reads the table that `save` wrote.

  Args:
    folder: of the run.
    notes: that `save` returned.

  Raises:
    FileError: the file is not there, or is not what was written.
  """
  path = pathlib.Path(folder) / notes["file"]
  again = (
    "import the weights again, or give --standing_batches=100 to measure "
    "statistics in its place"
  )
  if not path.is_file():
    raise FileError(
      f"{path} is missing: it holds the statistics that were published with "
      f"the weights; {again}"
    )
  if sha256(path) != notes["sha256"]:
    raise FileError(
      f"{path} is not what was written there: its SHA-256 differs from the "
      f"one in the checkpoint's notes; {again}"
    )
  with np.load(path, allow_pickle=False) as arrays:
    return {name: arrays[name] for name in arrays.files}
