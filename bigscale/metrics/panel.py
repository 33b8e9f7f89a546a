"""Computes several scores of one set of samples from one network's features."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.metrics.features import Embedding, Features, Seen
from bigscale.metrics.fid import FeatureMoments
from bigscale.parallel import interruption
from bigscale.spec import SpecError
from bigscale.spec.named import is_path
from bigscale.spec.scores import column, kind_of

_log = logging.getLogger(__name__)


class Collector:
  """Embeds images and collects the inputs of the scores."""

  def __init__(
    self, network: Features, kinds: Collection[str], keep: int | None = None
  ) -> None:
    """Starts with no images.

    Args:
      network: network that embeds the images.
      kinds: kinds of scores that will be computed.
      keep: number of images whose features are kept, starting with the first;
        None keeps all. The moments always cover all images.
    """
    self._network = network
    self._moments = FeatureMoments.empty(network.dimension)
    keeps = {part for kind in kinds for part in kind_of(kind).keeps}
    self._features = "features" in keeps
    self._probabilities = "probabilities" in keeps
    self._left = keep
    self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

  def add(self, images: np.ndarray, labels: np.ndarray) -> Embedding:
    """Embeds and adds [N, H, W, C] uint8 images with their labels [N]."""
    embedding = self._network.embed(images)
    self.take(embedding, labels)
    return embedding

  def take(self, embedding: Embedding, labels: np.ndarray) -> None:
    """Adds the embedding of N images and their labels [N].

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
    labeled = slice(max(features.stop, probabilities.stop))
    # Copies: a view of length 0 would keep the whole array in memory.
    self._kept.append(
      (
        embedding.features[features].copy(),
        embedding.probabilities[probabilities].copy(),
        np.array(labels[labeled], np.int32),
      )
    )

  def seen(self) -> Seen:
    """Returns everything collected so far."""
    if not self._kept:
      empty = np.zeros((0, self._network.dimension), np.float32)
      return Seen(self._moments, empty, empty, np.zeros(0, np.int32))
    columns = zip(*self._kept, strict=True)
    return Seen(self._moments, *(np.concatenate(rows) for rows in columns))


def compute(
  kinds: Sequence[str], feature: str, *given: Any
) -> dict[str, float]:
  """Computes kinds of scores that share a function, and checks its result.

  Args:
    kinds: kinds of scores whose rows have the same `compute` function.
    feature: name of the network, the last part of the column names; "" for
      scores over pixels.
    *given: arguments of the function.

  Raises:
    SpecError: a value is missing or not finite, or a user's function fails.
  """
  name = " and ".join(column(kind, feature) for kind in kinds)
  try:
    values = kind_of(kinds[0]).compute(*given)
  except SpecError:
    raise
  except Exception as error:
    if not is_path(kinds[0]):
      raise
    _log.exception("%s failed", name)
    raise SpecError(
      f"{name} failed with {type(error).__name__}: {error}; fix {kinds[0]}"
    ) from error
  found = {}
  for kind in kinds:
    for part in kind_of(kind).columns:
      found[column(part, feature)] = _number(name, part, values)
  return found


def _number(name: str, part: str, values: Any) -> float:
  """Checks and returns one column of a score function's result."""
  value = values.get(part) if isinstance(values, Mapping) else None
  real = isinstance(value, int | float | np.integer | np.floating)
  if not real or isinstance(value, bool) or np.ndim(value):
    raise SpecError(
      f"{name} must return a number for its column {part!r}, but returned "
      f"{values!r}; return {{{part!r}: ...}}"
    )
  if not np.isfinite(value):
    raise SpecError(
      f"{name} returned {part}={value}, which is not finite and cannot be "
      "ranked; check the samples and the score's function"
    )
  return value if isinstance(value, int) else float(value)


def compare(
  samples: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> dict[str, float]:
  """Returns the scores of samples against reals.

  Args:
    samples: embeddings to score.
    reals: embeddings of the reals to compare with.
    kinds: kinds of scores.
    feature: name of the network, the last part of the score names.

  Raises:
    SpecError: there are too few samples or reals for a score.
  """
  found: dict[str, float] = {}
  for together in _together(kinds):
    found |= compute(together, feature, samples, reals)
  return found


def compare_each(
  samples: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> tuple[dict[str, float], dict[str, Exception]]:
  """Returns the same scores, and continues after a score that fails.

  Returns:
    The columns, and the exception of each failed score by its name.
  """
  found: dict[str, float] = {}
  failed: dict[str, Exception] = {}
  for together in _together(kinds):
    interruption.point()
    try:
      found |= compute(together, feature, samples, reals)
    except Exception as error:
      # Includes failures of linear algebra and out-of-memory errors.
      failed |= {column(kind, feature): error for kind in together}
  return found, failed


def floors(
  heldout: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> dict[str, float]:
  """Returns the scores of held-out reals, named `SCORE_floor`.

  A score that needs more held-out reals than there are gets no floor, and a
  warning is logged. Samples can be scored without a floor.

  Args:
    heldout: embeddings of reals that are not in `reals`.
    reals: embeddings of the reals to compare with.
    kinds: kinds of scores. Kinds whose row has `floor=False` are skipped.
    feature: name of the network.
  """
  found: dict[str, float] = {}
  for together in _together([kind for kind in kinds if kind_of(kind).floor]):
    interruption.point()
    try:
      scores = compute(together, feature, heldout, reals)
    except SpecError as error:
      names = ", ".join(column(kind, feature) for kind in together)
      _log.warning("%s: no floor of held-out reals: %s", names, error)
      continue
    found |= {f"{name}_floor": value for name, value in scores.items()}
  return found


def of_reals(kinds: Collection[str]) -> tuple[str, ...]:
  """Returns the kinds that need more of the reals than their moments."""
  return tuple(kind for kind in kinds if kind_of(kind).single_reals)


def _together(kinds: Collection[str]) -> list[list[str]]:
  """Groups kinds that share a function; keeps the given order."""
  found: dict[Callable[..., Any], list[str]] = {}
  for kind in kinds:
    found.setdefault(kind_of(kind).compute, []).append(kind)
  return list(found.values())
