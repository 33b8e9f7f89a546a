"""Arrays of an .npz, once its headers are known to tell the truth."""

import contextlib
import math
import os
import zipfile
from collections.abc import Iterator
from typing import IO

import numpy as np
from etils import epath

from bigscale.data.manifest import DataError


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens an .npz whose arrays are as large as their headers say.

  A header that lies would have numpy ask for memory that no machine has.

  Args:
    path: of the file.

  Raises:
    DataError: it is no such file, is damaged, or an array's header lies; also
      where reading one of the arrays in the context fails.
  """
  try:
    with epath.Path(path).open("rb") as file:
      _check_sizes(file)
      file.seek(0)
      with np.load(file) as arrays:
        yield arrays
  except DataError:
    raise
  # Of damaged bytes zipfile, zlib and numpy raise nearly everything.
  except Exception as error:
    raise DataError(
      f"{path} cannot be read as .npz ({error}); save it again with "
      "numpy.savez(path, images=..., labels=...), arrays of numbers and text"
    ) from error


def _check_sizes(file: IO[bytes]) -> None:
  with zipfile.ZipFile(file) as archive:
    for entry in archive.infolist():
      if not entry.filename.endswith(".npy"):
        continue
      with archive.open(entry) as array:
        version = np.lib.format.read_magic(array)
        read = (
          np.lib.format.read_array_header_1_0
          if version == (1, 0)
          else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(array)
        told = math.prod(shape) * dtype.itemsize
        there = entry.file_size - array.tell()
      if any(side < 0 for side in shape) or (
        told != there and not dtype.hasobject
      ):
        raise ValueError(
          f"{entry.filename} says {dtype} {shape}, {told} bytes; it has {there}"
        )
