"""Compares batches of training images with the anchor."""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigscale.monitor.anchors.null import (
  Metric,
  Null,
  repeat_surprise,
  weights_of,
)
from bigscale.monitor.packed import pack, unpack

# Minimum number of images of a source. In a prototype, anchors of 512 images
# gave 25 to 45 false alarms in 10,000 batches, and of 1,024 none in 8,000.
SMALLEST = 1024
# Numbers of batches whose images are compared together.
WINDOWS = (1, 4, 16)
# Half the anchor has at least this many times the images of a comparison.
_SHARE = 2
# Weight of the overall mean in the mean of each class, in images.
_PRIOR = 2
# Largest -ln P(label) that one image counts for.
_MOST_SURPRISED = 6.0
# Number of groups of labels whose shares are compared.
_LABEL_GROUPS = 64
# Number of remembered hashes, and the number of expected repeats in them.
_MOST_HASHES, _EXPECTED_REPEATS = 8192, 0.02


class Described(NamedTuple):
  """Measurements of N images, on the host or on the devices.

  Attributes:
    pixels: [N, P] columns of `measure.pixel_columns`.
    features: [N, F] features of a frozen network; F is 0 without one.
    surprisal: [N] -ln P(label) by the network; [0] if it has no classes.
    labels: [N] int32 labels, 0 without classes.
  """

  pixels: np.ndarray
  features: np.ndarray
  surprisal: np.ndarray
  labels: np.ndarray

  def rows(self, start: int, stop: int) -> "Described":
    """Returns the measurements of some images."""
    return Described(*(x[start:stop] for x in self))


class Shift(NamedTuple):
  """How far a batch lies from the anchor.

  Attributes:
    surprise: -ln P(as far by chance), in nats, for all windows together.
    size: largest shift of a column's mean, in standard deviations of single
      images; for labels and repeats, a share of the images. What chance
      contributes on average is subtracted.
  """

  surprise: float
  size: float


class Space:
  """Distances of images to all images and to those of their class.

  Attributes:
    image: metric of all images.
    within: metric of deviations from class means; None without classes.
    centers: [K, F] class means, shrunk to the overall mean.
  """

  def __init__(
    self, x_nf: np.ndarray, labels: np.ndarray, classes: int
  ) -> None:
    self.image = Metric(x_nf)
    one_hot = np.eye(classes)[labels]
    counts = one_hot.sum(0)[:, None] + _PRIOR
    self.centers = (one_hot.T @ x_nf + _PRIOR * x_nf.mean(0)) / counts
    self.within = None
    if classes > 1:
      self.within = Metric(x_nf - self.centers[labels])

  def to_class(self, x_nf: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns [N] squared distances of images to their class."""
    if self.within is None:
      return self.image.squares(x_nf)
    return self.within.squares(x_nf - self.centers[labels])


class DataAnchor:
  """A fixed set of training images that batches are compared with.

  The images come from the training split: a network knows its own training
  images, so held-out ones would differ.

  Attributes:
    spaces: distances by pixels and, with a network, by features.
    usual: [N / 2] ln of the squared distance of each image to its class.
    tests: names of the comparisons.
  """

  def __init__(
    self,
    images: Described,
    classes: int,
    batch: int,
    repeat_rate: float,
    shuffled: bool = True,
  ) -> None:
    """Simulates what chance does to batches.

    Args:
      images: measurements of the anchor's images, at least `SMALLEST`. Each
        half is a random sample of the data by itself. The halves may share
        images, as batches and the anchor do.
      classes: number of classes of the run, 0 without labels.
      batch: number of images of each batch. If it is large, only the first
        ones are compared.
      repeat_rate: probability that two records of the stream are equal.
      shuffled: whether batches are random samples of the data. If not, only
        repeats are looked for.
    """
    self._classes = max(classes, 1)
    self.repeat_rate = repeat_rate
    # One half makes means and metrics and the other is measured, because every
    # image is near to itself.
    half = len(images.labels) // 2
    first, second = images.rows(0, half), images.rows(half, len(images.labels))
    self._batch = min(batch, max(half // _SHARE, 1))
    self.spaces = {
      name: Space(x, first.labels, self._classes)
      for name, x in (("pixels", first.pixels), ("features", first.features))
      if x.shape[1]
    }
    self._limits: np.ndarray | None = None
    odd = self.columns(second)["oddness"]
    self._limits = np.quantile(odd, 0.9, axis=0)
    table = self.columns(second)
    self.usual = self.oddness(second)
    self._count = len(second.labels)
    self._nulls: dict[tuple[str, int], Null] = {}
    for window in WINDOWS if shuffled else ():
      if _SHARE * window * self._batch <= self._count:
        weights = weights_of(self._count, window * self._batch)
        for group, x in table.items():
          self._nulls[group, window] = Null(x, weights)
    self._shares = table["labels"].mean(0) if classes > 1 else None
    self._means: collections.deque[dict[str, np.ndarray]]
    self._means = collections.deque(maxlen=WINDOWS[-1])
    most = min(_MOST_HASHES, int(_EXPECTED_REPEATS / max(repeat_rate, 1e-9)))
    self._seen: collections.deque[int] = collections.deque(maxlen=max(most, 16))
    groups = dict.fromkeys(group for group, _ in self._nulls)
    self.tests = (*groups, "repeats")

  def oddness(self, images: Described) -> np.ndarray:
    """Returns [N] ln of the squared distance of each image to its class."""
    name = "features" if "features" in self.spaces else "pixels"
    squares = self.spaces[name].to_class(getattr(images, name), images.labels)
    return np.log(squares + 1e-3)

  def columns(self, images: Described) -> dict[str, np.ndarray]:
    """Returns the compared columns [N, F] of images, by group."""
    found, odd = {}, []
    for name, space in self.spaces.items():
      x = getattr(images, name)
      found[name] = space.image.clipped(x)
      odd.append(np.log(space.image.squares(x) + 1e-3) / 2)
      if space.within is not None:
        odd.append(np.log(space.to_class(x, images.labels) + 1e-3) / 2)
    if len(images.surprisal):
      odd.append(np.minimum(images.surprisal, _MOST_SURPRISED))
    oddness = np.stack(odd, 1)
    if self._limits is not None:
      # The oddest tenth again: a few bad images among good ones.
      tail = np.maximum(oddness - self._limits, 0)
      oddness = np.concatenate([oddness, tail], 1)
    found["oddness"] = oddness
    if self._classes > 1:
      groups = min(self._classes, _LABEL_GROUPS)
      group = images.labels.astype(np.int64) * groups // self._classes
      found["labels"] = np.eye(groups)[group]
    return found

  def look(self, images: Described, hashes: Sequence[int]) -> dict[str, Shift]:
    """Compares a batch with the anchor.

    Args:
      images: measurements of the batch.
      hashes: hashes of these and other images of the same step.
    """
    found = {"repeats": self._repeats(hashes)}
    columns = self.columns(images.rows(0, self._batch))
    self._means.append({name: x.mean(0) for name, x in columns.items()})
    best: dict[str, Shift] = {}
    tests = collections.Counter(group for group, _ in self._nulls)
    for (group, window), null in self._nulls.items():
      if len(self._means) < window:
        continue
      recent = list(self._means)[-window:]
      mean = np.mean([means[group] for means in recent], 0)
      surprise = null.surprise(mean, 1 + window * self._batch / self._count)
      size = _size(group, null.table, mean, window * self._batch)
      # Bonferroni over the windows.
      shift = Shift(max(surprise - math.log(tests[group]), 0.0), size)
      best[group] = max(best.get(group, shift), shift)
    return {**best, **found}

  def _repeats(self, hashes: Sequence[int]) -> Shift:
    """Counts images that occur twice in a step, or in recent steps."""
    count, different = len(hashes), set(hashes)
    within = count - len(different)
    before = len(different & set(self._seen))
    expected = (
      self.repeat_rate * count * count / 2,
      self.repeat_rate * count * len(self._seen),
    )
    self._seen.extend(hashes)
    surprise = max(
      repeat_surprise(n, mean)
      for n, mean in zip((within, before), expected, strict=True)
    )
    size = max(within, before) / max(count, 1)
    return Shift(max(surprise - math.log(2), 0.0), size)

  def get_state(self) -> dict[str, Any]:
    """Returns the recent means and hashes as plain JSON."""
    return {
      "means": [
        {name: pack(x) for name, x in means.items()} for means in self._means
      ],
      "seen": pack(np.array(self._seen, np.uint64)),
    }

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Continues from a state that `get_state` returned.

    Means of other columns are dropped, because they are of another anchor.
    """
    self._means.clear()
    for packed in state["means"]:
      means = {name: unpack(x) for name, x in packed.items()}
      if all(
        len(means.get(group, ())) == len(null.table.mean)
        for (group, _), null in self._nulls.items()
      ):
        self._means.append(means)
    self._seen.clear()
    self._seen.extend(unpack(state["seen"]).tolist())


def _size(group: str, table: Metric, mean_f: np.ndarray, count: int) -> float:
  """Returns the size of a shift, beyond what the mean of `count` images has.

  For labels it is the total variation distance, and for columns the largest
  shift in standard deviations.
  """
  if group == "labels":
    apart = float(np.abs(mean_f - table.mean).sum() / 2)
    noise = math.sqrt(len(mean_f) / (2 * math.pi * count))
  else:
    apart = table.shift(mean_f)
    # The largest of some hundred standard normal values.
    noise = math.sqrt(2 * math.log(max(len(mean_f), 2)) / count)
  return max(apart - noise, 0.0)
