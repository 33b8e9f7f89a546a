"""Both splits of a set as one source: images that nobody trains on."""

import numpy as np

from bigscale.data.manifest import DataError
from bigscale.data.sources import Sample, Source, open_source


class Whole(Source):
  """All images of a folder, zip, .npz or set, train split first."""

  def __init__(self, path: str, padding: int | None = None) -> None:
    """Opens what there is.

    Args:
      path: as `open_source` takes it.
      padding: see `Source`.

    Raises:
      DataError: there are no images, or they cannot be read.
    """
    self._parts: list[Source] = []
    refused: list[DataError] = []
    for split in ("train", "heldout"):
      try:
        self._parts.append(open_source(path, split, padding))
      except DataError as error:
        # Of a few images none may be held out.
        refused.append(error)
    if not self._parts:
      raise refused[0]
    self._first = len(self._parts[0])
    self.class_names = self._parts[0].class_names
    self.padding = self._parts[0].padding
    self.name = " + ".join(part.name for part in self._parts)

  @property
  def identity(self) -> str:
    """See `Source`."""
    return " + ".join(part.identity for part in self._parts)

  def __len__(self) -> int:
    return sum(len(part) for part in self._parts)

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return self._parts[0].decodes

  def read(self, index: int) -> Sample:
    """See `Source`."""
    if index < self._first:
      return self._parts[0].read(index)
    return self._parts[1].read(index - self._first)

  def labels(self) -> np.ndarray:
    """See `Source`."""
    return np.concatenate([part.labels() for part in self._parts])
