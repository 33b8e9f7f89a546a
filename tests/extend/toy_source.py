"""A data source that reads FOLDER/images.npy and FOLDER/labels.npy.

Example:

bigscale train --config=CONFIG --config.data.source=toy_source:Toy:FOLDER
"""

import hashlib
import pathlib

import numpy as np

from bigscale.data import splits
from bigscale.data.sources import Record, Source


class Toy(Source):
  """One split: images [N, H, W, C] uint8, labels [N] integers."""

  def __init__(self, folder: str, split: str) -> None:
    """Opens the two files without reading any image.

    Args:
      folder: the text after `toy_source:Toy:` in `data.source`.
      split: `train`, or `heldout` for images that are never trained on.
    """
    path = pathlib.Path(folder)
    self._images = np.load(path / "images.npy", mmap_mode="r")
    self._labels = np.load(path / "labels.npy").astype(np.int32)
    # Holds out 5% of the records, chosen by their index alone.
    held_out = splits.held_out(np.arange(len(self._images)), 0.05)
    self._rows = splits.rows_of(split, held_out, folder)
    # Messages show this name. The default, the identity, reads all images.
    self.name = f"toy/{split}"
    self.class_names = splits.number_names(int(self._labels.max()) + 1)

  def __len__(self) -> int:
    return len(self._rows)

  def read(self, index: int) -> Record:
    """Returns a record. Many threads call this at once."""
    row = self._rows[index]
    return Record(np.array(self._images[row]), (int(self._labels[row]),))

  def labels(self) -> np.ndarray:
    """Returns the labels of all records: [len(self)] int32."""
    return self._labels[self._rows]

  def content(self) -> str:
    """Returns a name for the records, computed from their content.

    A copy of the folder has the same name.
    """
    digest = hashlib.sha256(repr(self._images.shape).encode())
    for row in self._rows:
      digest.update(self._images[row].tobytes())
    digest.update(self.labels().astype("<i4").tobytes())
    return f"{self.name}@{digest.hexdigest()[:16]}"
