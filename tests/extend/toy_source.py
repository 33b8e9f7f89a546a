"""A data source of one's own: FOLDER/images.npy and FOLDER/labels.npy.

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
    """Opens what FOLDER holds; reads no image.

    Args:
      folder: what a user writes after `toy_source:Toy:`.
      split: `train`, or `heldout` for other images, never trained on.
    """
    place = pathlib.Path(folder)
    self._images = np.load(place / "images.npy", mmap_mode="r")
    self._labels = np.load(place / "labels.npy").astype(np.int32)
    # Each record falls to a split by its place alone: 5% are held out.
    held_out = splits.held_out(np.arange(len(self._images)), 0.05)
    self._rows = splits.rows_of(split, held_out, folder)
    # For messages: the identity would read everything.
    self.name = f"toy/{split}"
    self.class_names = splits.number_names(int(self._labels.max()) + 1)

  def __len__(self) -> int:
    return len(self._rows)

  def read(self, index: int) -> Record:
    """A record by index, from many threads at once."""
    row = self._rows[index]
    return Record(np.array(self._images[row]), (int(self._labels[row]),))

  def labels(self) -> np.ndarray:
    """The label of every record: [len(self)] int32."""
    return self._labels[self._rows]

  def content(self) -> str:
    """Names the records by what they hold: a copy elsewhere has the same."""
    digest = hashlib.sha256(repr(self._images.shape).encode())
    for row in self._rows:
      digest.update(self._images[row].tobytes())
    digest.update(self.labels().astype("<i4").tobytes())
    return f"{self.name}@{digest.hexdigest()[:16]}"
