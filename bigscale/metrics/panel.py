"""Several scores of one set of samples over one network's features."""

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
    self._moments = FeatureMoments.empty(network.dimension)
    keeps = {part for kind in kinds for part in kind_of(kind).keeps}
    self._features = "features" in keeps
    self._probabilities = "probabilities" in keeps
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
    labelled = slice(max(features.stop, probabilities.stop))
    # Copies: an empty view would hold what it is a view of.
    self._kept.append(
      (
        embedding.features[features].copy(),
        embedding.probabilities[probabilities].copy(),
        np.array(labels[labelled], np.int32),
      )
    )

  def seen(self) -> Seen:
    """All of it."""
    if not self._kept:
      empty = np.zeros((0, self._network.dimension), np.float32)
      return Seen(self._moments, empty, empty, np.zeros(0, np.int32))
    columns = zip(*self._kept, strict=True)
    return Seen(self._moments, *(np.concatenate(rows) for rows in columns))


def compute(
  kinds: Sequence[str], feature: str, *given: Any
) -> dict[str, float]:
  """Computes kinds of one function, and checks what it gives.

  Args:
    kinds: of scores, whose rows have the same function.
    feature: the network, the last part of the columns' names; "" over pixels.
    *given: what the function takes.

  Raises:
    SpecError: a number is missing or not finite, or a user's function fails.
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
      f"{name} failed with {type(error).__name__}: {error}; mend {kinds[0]}"
    ) from error
  found = {}
  for kind in kinds:
    for part in kind_of(kind).columns:
      found[column(part, feature)] = _number(name, part, values)
  return found


def _number(name: str, part: str, values: Any) -> float:
  """One of the numbers that a function gives."""
  value = values.get(part) if isinstance(values, Mapping) else None
  real = isinstance(value, int | float | np.integer | np.floating)
  if not real or isinstance(value, bool) or np.ndim(value):
    raise SpecError(
      f"{name} is to give a number for its column {part!r}, and gives "
      f"{values!r}; return {{{part!r}: ...}}"
    )
  if not np.isfinite(value):
    raise SpecError(
      f"{name} gives {part}={value}, which is no finite number and ranks "
      "nothing; look at the samples, and at what computes it"
    )
  return value if isinstance(value, int) else float(value)


def compare(
  samples: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> dict[str, float]:
  """The scores of samples against reals.

  Args:
    samples: to score.
    reals: to compare with.
    kinds: of scores.
    feature: name of the network, the last part of the scores' names.

  Raises:
    SpecError: there are too few of either for a score.
  """
  found: dict[str, float] = {}
  for together in _together(kinds):
    found |= compute(together, feature, samples, reals)
  return found


def compare_each(
  samples: Seen, reals: Seen, kinds: Collection[str], feature: str
) -> tuple[dict[str, float], dict[str, Exception]]:
  """The same, where a score that fails leaves the others as they are.

  Returns:
    The columns, and by the score's name what failed.
  """
  found: dict[str, float] = {}
  failed: dict[str, Exception] = {}
  for together in _together(kinds):
    interruption.point()
    try:
      found |= compute(together, feature, samples, reals)
    except Exception as error:
      # Also what linear algebra and a full memory end in.
      failed |= {column(kind, feature): error for kind in together}
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
    kinds: of scores; those whose rows say so have none.
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
  """The kinds that look at more of the reals than their moments."""
  return tuple(kind for kind in kinds if kind_of(kind).single_reals)


def _together(kinds: Collection[str]) -> list[list[str]]:
  """Kinds in the order asked for, those of the same function in one list."""
  found: dict[Callable[..., Any], list[str]] = {}
  for kind in kinds:
    found.setdefault(kind_of(kind).compute, []).append(kind)
  return list(found.values())
