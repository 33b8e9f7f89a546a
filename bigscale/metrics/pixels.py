"""Scores over pixels: which images are kept, and the scores of held-out reals.

For each class, the first images are kept, up to the number that the score's row
sets. This bounds memory.
"""

import logging
from typing import Any, NamedTuple

import numpy as np

from bigscale.data import reading
from bigscale.data.reading import Reader
from bigscale.data.sources import Source
from bigscale.metrics import cache
from bigscale.metrics.features import KeptImages
from bigscale.metrics.panel import compute
from bigscale.metrics.reference import VERSION, MaxBad, warn_unreadable
from bigscale.parallel import interruption
from bigscale.spec import SpecError, require
from bigscale.spec.scores import column, identity, kind_of

# Memory limit of the images kept for one score, over all classes.
_MAX_BYTES = 2**30

_log = logging.getLogger(__name__)


class ImageSelection(NamedTuple):
  """Which images are kept for a score.

  Attributes:
    kind: kind of score that the images are for.
    image_shape: (R, R, C).
    class_names: the same number of images is kept for each; () treats all
      images as one class.
  """

  kind: str
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...] = ()

  @property
  def per_class(self) -> int:
    """Number of images kept per class: the row's number or the memory limit."""
    classes = max(1, len(self.class_names))
    room = _MAX_BYTES // (classes * int(np.prod(self.image_shape)))
    return max(2, min(kind_of(self.kind).images_per_class or room, room))

  @property
  def protocol(self) -> dict[str, Any]:
    """Everything that the score depends on, as JSON values."""
    more = kind_of(self.kind).protocol
    return {
      **(more(self.image_shape) if more else {}),
      "within": "class" if self.class_names else "set",
      "images_per_class": self.per_class,
    }


class ImageKeeper:
  """Keeps the first images of each class for a score."""

  def __init__(self, selection: ImageSelection) -> None:
    """Starts with no images."""
    self._selection = selection
    self._counts = np.zeros(max(1, len(selection.class_names)), np.int64)
    self._kept: list[tuple[np.ndarray, np.ndarray]] = []

  @property
  def full(self) -> bool:
    """Whether every class has all its images."""
    return bool((self._counts >= self._selection.per_class).all())

  def add(self, images: np.ndarray, labels: np.ndarray) -> None:
    """Adds [N, R, R, C] uint8 images and their labels [N]."""
    if self.full:
      return
    if not self._selection.class_names:
      labels = np.zeros(len(images), np.int64)
    chosen = []
    for label in np.unique(labels):
      room = self._selection.per_class - self._counts[label]
      rows = np.flatnonzero(labels == label)[: max(0, room)]
      self._counts[label] += len(rows)
      chosen.append(rows)
    rows = np.sort(np.concatenate(chosen))
    self._kept.append((images[rows], labels[rows]))

  def scores(self) -> dict[str, float]:
    """Computes the columns of the score.

    Raises:
      SpecError: there are too few images.
    """
    require(bool(self._kept), "there are no images to compare; provide some")
    images, labels = map(np.concatenate, zip(*self._kept, strict=True))
    kept = KeptImages(images, labels, self._selection.class_names)
    return compute([self._selection.kind], "", kept)


def pixel_floor(
  selection: ImageSelection,
  heldout: Source,
  seed: int,
  cache_dir: str | None = None,
  max_bad: MaxBad | None = None,
) -> dict[str, float]:
  """Computes a score of held-out reals, named `COLUMN_floor`.

  Returns {} if the score's row has `floor=False`. If there are too few held-out
  reals, logs a warning and returns {}. `SCORE_floor_unreadable` is the number
  of held-out records that could not be read, if there are any.

  Args:
    selection: which images are kept; the same for samples and reals.
    heldout: split to read.
    seed: seed of the choice of reals.
    cache_dir: see `bigscale.metrics.cache.directory`.
    max_bad: maps a number of records to how many of them may be unusable;
      None allows any number.

  Raises:
    DataError: more records than `max_bad` allows are unusable.
  """
  if not kind_of(selection.kind).floor:
    return {}
  name = column(selection.kind, "")
  content = {
    "pixels_version": VERSION,
    "reading_version": reading.VERSION,
    "heldout": heldout.identity,
    "seed": seed,
    **selection._asdict(),
    "kind": identity(selection.kind),
    "protocol": selection.protocol,
  }
  label = f"{heldout.name.split('/')[0]} {name}"
  path = cache.path_of(cache_dir, "reference", label, content)
  allowed = max_bad and max_bad(len(heldout))
  arrays = cache.read(path)
  columns = tuple(kind_of(selection.kind).columns)
  if arrays is None or arrays.keys() != {*columns, "unreadable", "example"}:
    arrays = _compute_floor(selection, heldout, seed, allowed)
    if not arrays:
      return {}
    cache.write(path, arrays)
  found = {f"{part}_floor": float(arrays[part]) for part in columns}
  bad = int(arrays["unreadable"])
  if bad:
    warn_unreadable(heldout, bad, str(arrays["example"]), allowed)
    found[f"{name}_floor_unreadable"] = bad
  return found


def _compute_floor(
  selection: ImageSelection, heldout: Source, seed: int, allowed: int | None
) -> dict[str, np.ndarray]:
  """Returns the arrays to cache for a floor; {} if there is no floor."""
  keeper = ImageKeeper(selection)
  # Shuffled: records that are adjacent on disk may show the same object.
  order = np.random.default_rng((seed, 3)).permutation(len(heldout))
  reader = Reader(heldout, selection.image_shape, allowed)
  for images, labels in reader.chunks(order):
    interruption.point()
    keeper.add(images, labels)
    if keeper.full:
      break
  try:
    found = keeper.scores()
  except SpecError as error:
    name = column(selection.kind, "")
    _log.warning("%s: no floor of held-out reals: %s", name, error)
    return {}
  met = reader.facts()
  return {
    **{part: np.float64(value) for part, value in found.items()},
    "unreadable": np.int64(met["unreadable"]),
    "example": np.array(met["unreadable_example"]),
  }
