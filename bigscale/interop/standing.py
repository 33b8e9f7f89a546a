"""Stores the table of batch norm statistics of an imported run.

The file is next to the checkpoints, not inside them, because the statistics
belong to the published weights and to no later step. The notes of the
checkpoint at step 0 contain the file's digest.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.interop.files import FileError
from bigscale.place import open_place
from bigscale.place.paths import path_of

FILE = "standing_statistics.npz"


def save(
  folder: str | os.PathLike[str], table: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Writes a table, and returns its entry in the checkpoint's notes.

  Args:
    folder: path or address of the run folder.
    table: statistics by path, [N, C] each; row i belongs to truncation
      i / (N - 1).
  """
  content = io.BytesIO()
  np.savez(content, **table)
  open_place(folder).write(FILE, content.getvalue())
  digest = hashlib.sha256(content.getvalue()).hexdigest()
  rows = {len(row) for row in table.values()}
  return {"file": FILE, "truncations": max(rows), "sha256": digest}


def read(
  folder: str | os.PathLike[str], notes: Mapping[str, Any]
) -> dict[str, np.ndarray]:
  """Reads the table that `save` wrote.

  Args:
    folder: path or address of the run folder.
    notes: result of `save`.

  Raises:
    FileError: the file is missing or was changed.
  """
  path = path_of(folder) / notes["file"]
  again = (
    "import the weights again, or pass --standing_batches=100 to measure "
    "statistics instead"
  )
  try:
    content = open_place(folder).read(notes["file"])
  except FileNotFoundError as error:
    raise FileError(
      f"{path} is missing: it contains the statistics published with the "
      f"weights; {again}"
    ) from error
  if hashlib.sha256(content).hexdigest() != notes["sha256"]:
    raise FileError(
      f"{path} was changed: its SHA-256 differs from the one in the "
      f"checkpoint's notes; {again}"
    )
  with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
    return {name: arrays[name] for name in arrays.files}
