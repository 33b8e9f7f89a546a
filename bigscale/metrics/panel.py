"""Several scores of one set of samples over one network's features."""

import logging
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from bigscale.metrics.features import Embedding, Features
from bigscale.metrics.fid import (
  Moments,
  frechet_distance,
  frechet_distance_infinity,
)
from bigscale.metrics.inception_score import inception_score
from bigscale.metrics.intra_class import intra_class_distance
from bigscale.metrics.kid import kid
from bigscale.metrics.modes import mode_coverage
from bigscale.metrics.precision_recall import precision_recall
from bigscale.parallel import interruption
from bigscale.spec import SpecError
from bigscale.spec.scores import KINDS, column

# Scores that look at single features, and so need them all at once.
KEEP_FEATURES = ("fd_infinity", "kid", "pr", "dc", "intra_fd")
# What is computed together.
_WITH_FLOOR = (
  ("fd",),
  ("fd_infinity",),
  ("is",),
  ("modes",),
  ("kid",),
  ("pr", "dc"),
)
# Classes of which few are held out have no distance of their own.
_TOGETHER = (*_WITH_FLOOR, ("intra_fd",))
# Scores of what the network takes images for.
_KEEP_PROBABILITIES = ("is", "modes")
_SPLITS, _BLOCK = 10, 1000

_log = logging.getLogger(__name__)


class Seen(NamedTuple):
  """What a network made of a set of images.

  Attributes:
    moments: of all features.
    features: [N, D] float32, of those that are kept; N may be 0.
    probabilities: [N, K] float32, the same.
    labels: [N] int32, the same.
  """

  moments: Moments
  features: np.ndarray
  probabilities: np.ndarray
  labels: np.ndarray


class Collector:
  """Embeds images, and keeps what the scores need of them."""

  def __init__(
    self, network: Features, kinds: Collection[str], keep: int | None = None
  ) -> None:
    """Has seen nothing.

    Args:
      network: embeds.
      kinds: of scores that will be asked for.
      keep: images of which features are kept, the first; None keeps all.
    """
    self._network = network
    self._moments = Moments.empty(network.dimension)
    self._features = any(kind in KEEP_FEATURES for kind in kinds)
    self._probabilities = any(kind in _KEEP_PROBABILITIES for kind in kinds)
    self._left = keep
    self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

  def add(self, images: np.ndarray, labels: np.ndarray) -> Embedding:
    """Takes [N, H, W, C] uint8 images and their labels [N]."""
    embedding = self._network.embed(images)
    self.take(embedding, labels)
    return embedding

  def take(self, embedding: Embedding, labels: np.ndarray) -> None:
    """Takes what the network made of N images, and their labels [N].

    Raises:
      SpecError: features are not finite.
    """
    self._moments = self._moments.update(embedding.features)
    count = len(embedding.features)
    if self._left is not None:
      count = min(self._left, count)
    self._left = None if self._left is None else self._left - count
    features = slice(count if self._features else 0)
    probabilities = slice(count if self._probabilities else 0)
    # Copies: an empty view would hold what it is a view of.
    self._kept.append(
      (
        embedding.features[features].copy(),
        embedding.probabilities[probabilities].copy(),
        np.array(labels[features], np.int32),
      )
    )

  def seen(self) -> Seen:
    """All of it."""
    if not self._kept:
      empty = np.zeros((0, self._network.dimension), np.float32)
      return Seen(self._moments, empty, empty, np.zeros(0, np.int32))
    columns = zip(*self._kept, strict=True)
    return Seen(self._moments, *(np.concatenate(rows) for rows in columns))


def compare(
  samples: Seen,
  reals: Seen,
  kinds: Collection[str],
  feature: str,
  class_names: tuple[str, ...] = (),
) -> dict[str, float]:
  """The scores of samples against reals.

  Args:
    samples: to score.
    reals: to compare with.
    kinds: of `bigscale.spec.scores.KINDS`.
    feature: name of the network, the last part of the scores' names.
    class_names: for messages.

  Raises:
    SpecError: there are too few of either for a score.
  """
  found: dict[str, float] = {}
  if "fd" in kinds:
    found["fd"] = frechet_distance(samples.moments, reals.moments)
  if "fd_infinity" in kinds:
    line = frechet_distance_infinity(samples.features, reals.moments)
    found["fd_infinity"] = line.distance
    found["fd_infinity_standard_error"] = line.standard_error
  if "is" in kinds:
    count, classes = samples.probabilities.shape
    splits = max(1, min(_SPLITS, count // max(classes, 1)))
    found |= inception_score(samples.probabilities, splits=splits)
  if "modes" in kinds:
    probabilities = samples.probabilities
    counts = np.bincount(
      probabilities.argmax(-1), minlength=probabilities.shape[1]
    )
    covered = mode_coverage(counts)
    found |= {"modes": covered.modes, "modes_kl": covered.reverse_kl}
  if "kid" in kinds:
    smaller = min(len(samples.features), len(reals.features))
    block = max(2, min(_BLOCK, smaller // 2))
    found |= kid(samples.features, reals.features, subset_size=block)
  if "pr" in kinds or "dc" in kinds:
    every = precision_recall(samples.features, reals.features)._asdict()
    wanted = ("precision", "recall") if "pr" in kinds else ()
    wanted += ("density", "coverage") if "dc" in kinds else ()
    found |= {name: every[name] for name in wanted}
  if "intra_fd" in kinds:
    within = intra_class_distance(
      samples.features,
      samples.labels,
      reals.features,
      reals.labels,
      class_names=class_names or None,
    )
    found["intra_fd"] = within.mean
    found["intra_fd_worst"] = float(within.distances.max())
  return {column(name, feature): value for name, value in found.items()}


def compare_each(
  samples: Seen,
  reals: Seen,
  kinds: Collection[str],
  feature: str,
  class_names: tuple[str, ...] = (),
) -> tuple[dict[str, float], dict[str, Exception]]:
  """The same, where a score that fails leaves the others as they are.

  Returns:
    The columns, and by the score's name what failed.
  """
  found: dict[str, float] = {}
  failed: dict[str, Exception] = {}
  for together in _TOGETHER:
    asked = [kind for kind in together if kind in kinds]
    if not asked:
      continue
    interruption.point()
    try:
      found |= compare(samples, reals, asked, feature, class_names)
    except Exception as error:
      # Also what linear algebra and a full memory end in.
      failed |= {column(kind, feature): error for kind in asked}
  return found, failed


def floors(
  heldout: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> dict[str, float]:
  """What held-out reals get, as `SCORE_floor`.

  Where they are too few for a score, it has no floor and a warning says so:
  samples can be scored without.

  Args:
    heldout: reals that are not in `reals`.
    reals: to compare with.
    kinds: of `bigscale.spec.scores.KINDS`; those within classes have none.
    feature: name of the network.
  """
  found: dict[str, float] = {}
  for together in _WITH_FLOOR:
    asked = [kind for kind in together if kind in kinds]
    interruption.point()
    try:
      scores = compare(heldout, reals, asked, feature)
    except SpecError as error:
      names = ", ".join(column(kind, feature) for kind in asked)
      _log.warning("%s: no floor of held-out reals: %s", names, error)
      continue
    found |= {f"{name}_floor": value for name, value in scores.items()}
  return found


def of_reals(kinds: Collection[str]) -> tuple[str, ...]:
  """The kinds that look at more of the reals than their moments."""
  return tuple(kind for kind in kinds if not KINDS[kind].moments)
