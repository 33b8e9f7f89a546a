"""Both splits of a set as one source: images that nobody trains on."""

import numpy as np

from bigscale.data.manifest import EmptySplitError
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
    refused: list[EmptySplitError] = []
    for split in ("train", "heldout"):
      try:
        self._parts.append(open_source(path, split, padding))
      except EmptySplitError as error:
        # Of a few images none may be held out.
        refused.append(error)
    if not self._parts:
      raise refused[0]
    self._first = len(self._parts[0])
    self.class_names = self._parts[0].class_names
    said = (sentence for part in self._parts for sentence in part.notes)
    self.notes = tuple(dict.fromkeys(said))
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

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """See `Source`."""
    shapes = {part.image_shape for part in self._parts}
    return shapes.pop() if len(shapes) == 1 else None

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`."""
    part, index = self._place(index)
    return part.shape(index)

  def where(self, index: int) -> str:
    """See `Source`."""
    part, index = self._place(index)
    return part.where(index)

  def read(self, index: int) -> Sample:
    """See `Source`."""
    part, index = self._place(index)
    return part.read(index)

  def _place(self, index: int) -> tuple[Source, int]:
    """The split that holds an image, and its place there."""
    if index < self._first:
      return self._parts[0], index
    return self._parts[1], index - self._first

  def labels(self) -> np.ndarray:
    """See `Source`."""
    return np.concatenate([part.labels() for part in self._parts])
