"""Mixtures of several sources.

Stream positions are dealt to the sources in rounds. In each round, source k
gets the number of positions that brings its total closest to its share. After
any number of rounds its total is off by less than one position, so long-run
proportions are exact for any shares. Within a round, a hash decides which
positions a source gets. The n-th position of a source reads the n-th record in
the source's own order, with its own epochs.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from bigscale.data import hashing
from bigscale.data.hashing import Permutation
from bigscale.data.manifest import DataError
from bigscale.data.proportions import apportion
from bigscale.data.sources import MissingFile, Record, Source
from bigscale.data.splits import check_index
from bigscale.spec import DataSpec

_ROUND_USE = 0x4D495854
_SUBSET_KEY = 0x44524157  # Key of a permutation.
_ROUND = 256
# Shares are integers in units of 2^-32, so sums are equal on all machines.
_UNIT = 1 << 32


@dataclasses.dataclass(frozen=True)
class Deal:
  """Maps stream positions to sources.

  Attributes:
    shares: shares of the sources in units of 2^-32; they sum to 2^32.
    seed: seed of the order of positions within a round.
    round_length: number of positions per round.
  """

  shares: tuple[int, ...]
  seed: int
  round_length: int

  def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns each position's source and its index in that source's positions.

    Args:
      positions: [N] stream positions.

    Returns:
      Two arrays [N] int64.
    """
    positions = np.asarray(positions, np.int64)
    if len(self.shares) == 1:
      return np.zeros_like(positions), positions
    rounds, slots = np.divmod(positions, self.round_length)
    sources, places = np.empty_like(positions), np.empty_like(positions)
    for number in np.unique(rounds).tolist():
      rows = rounds == number
      of_slot, place_of_slot = _round(self, number)
      sources[rows] = of_slot[slots[rows]]
      places[rows] = place_of_slot[slots[rows]]
    return sources, places

  def before(self, number: int) -> list[int]:
    """Returns the number of positions each source got before a round."""
    ends, total = [0], 0
    for share in self.shares:
      total += share
      # Differences of rounded cumulative shares sum to the exact total.
      exact = number * self.round_length * total
      ends.append((exact + _UNIT // 2) // _UNIT)
    return [end - start for start, end in itertools.pairwise(ends)]


@functools.lru_cache(maxsize=64)
def _round(deal: Deal, number: int) -> tuple[np.ndarray, np.ndarray]:
  before, after = deal.before(number), deal.before(number + 1)
  counts = np.subtract(after, before)
  # Rounding could make the count of a very small share -1; `deal_of` chooses
  # rounds long enough to prevent this.
  order = np.argsort(
    hashing.random_bits(
      deal.seed,
      _ROUND_USE,
      number * deal.round_length + np.arange(deal.round_length),
    ),
    kind="stable",
  )
  sources = np.empty(deal.round_length, np.int64)
  sources[order] = np.repeat(np.arange(len(counts)), counts)
  places = np.empty_like(sources)
  for source, start in enumerate(before):
    mine = np.flatnonzero(sources == source)
    places[mine] = start + np.arange(len(mine))
  return sources, places


def deal_of(shares: Sequence[float], seed: int) -> Deal:
  """Builds the deal of the given shares, which sum to 1.

  Raises:
    DataError: a share is below 2^-20.
  """
  whole = [round(share * _UNIT) for share in shares]
  whole[int(np.argmax(whole))] += _UNIT - sum(whole)
  least = min(whole)
  if least < _UNIT >> 20:
    raise DataError(
      f"data.mixture: a share of {least / _UNIT:.2g} is below one in a "
      "million; increase it, or remove the source"
    )
  # Every source gets two or more positions per round on average, so that
  # rounding cannot make a count negative.
  length = _ROUND
  while length * least < 2 * _UNIT:
    length *= 2
  return Deal(tuple(whole), seed, length)


def shares_of(spec: DataSpec, sizes: Sequence[int]) -> tuple[float, ...]:
  """Returns the share of every source; (1.0,) without a mixture.

  Args:
    spec: data spec with the mixture.
    sizes: number of training images of each source.
  """
  if not spec.mixture:
    return (1.0,)
  if not spec.temperature:
    return tuple(part.share for part in spec.mixture)
  relative = np.array(sizes, np.float64) / max(sizes)
  weights = np.exp(np.log(relative) / spec.temperature)
  return tuple((weights / weights.sum()).tolist())


@dataclasses.dataclass(frozen=True)
class Labels:
  """Maps the labels of each source to labels of the mixture.

  Attributes:
    tables: the new label of each old label, for each source; () drops labels.
    class_names: class names of the mixture.
  """

  tables: tuple[tuple[int, ...], ...]
  class_names: tuple[str, ...]

  def of(self, source: int, labels: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the new labels of a record."""
    table = self.tables[source]
    if len(table) == 1 and not labels:
      return table
    return tuple(table[label] for label in labels) if table else ()


def labels_of(spec: DataSpec, sources: Sequence[Source]) -> Labels:
  """Builds the label mapping of a mixture.

  Raises:
    DataError: a table does not have a label for every class, or joint labels
      are requested for an unlabeled source.
  """
  if not spec.mixture:
    (source,) = sources
    return Labels((tuple(range(source.num_classes)),), source.class_names)
  names = [part.name or part.source for part in spec.mixture]
  if spec.mixture_labels == "none":
    return Labels(((),) * len(sources), ())
  if spec.mixture_labels == "source":
    tables = [(i,) * max(1, s.num_classes) for i, s in enumerate(sources)]
    return Labels(tuple(tables), tuple(names))
  tables, found = [], {}
  for part, prefix, source in zip(spec.mixture, names, sources, strict=True):
    if not source.num_classes:
      raise DataError(
        f"data.mixture_labels='joint', but {source!r} has no labels; use "
        "'source' or 'none', or remove the source"
      )
    if part.labels and len(part.labels) != source.num_classes:
      raise DataError(
        f"data.mixture: {len(part.labels)} labels are given for the "
        f"{source.num_classes} classes of {source!r}; give one label per class"
      )
    first = max(found, default=-1) + 1
    table = part.labels or tuple(range(first, first + source.num_classes))
    for label, name in zip(table, source.class_names, strict=True):
      found.setdefault(label, f"{prefix}/{name}")
    tables.append(tuple(table))
  missing = sorted(set(range(max(found) + 1)) - set(found))
  if missing:
    raise DataError(
      f"data.mixture: no class has the labels {missing[:5]} below "
      f"{max(found)}; number the labels from 0 without gaps"
    )
  return Labels(tuple(tables), tuple(found[i] for i in sorted(found)))


class Mixed(Source):
  """A mixture as one source of finite length, for statistics only.

  It has as many records as the mixture's proportions allow without repeating a
  record. From a source that is not used completely, records are drawn at
  random, because they may be stored class by class. The records of each source
  are contiguous.
  """

  def __init__(
    self, sources: Sequence[Source], deal: Deal, labels: Labels
  ) -> None:
    """Mixes sources in the proportions of `deal`, with the given labels."""
    self._sources, self._labels = tuple(sources), labels
    self.class_names = labels.class_names
    total = min(
      len(source) * _UNIT // share
      for source, share in zip(sources, deal.shares, strict=True)
    )
    counts = apportion(np.array(deal.shares), total)
    self._ends = np.cumsum(counts)
    self._orders = tuple(
      Permutation(len(source), _SUBSET_KEY) for source in sources
    )
    self._deal = deal
    self.name = _describe([s.name for s in sources], deal, labels)
    sentences = (sentence for source in sources for sentence in source.notes)
    self.notes = tuple(dict.fromkeys(sentences))

  @property
  def identity(self) -> str:
    """See `Source`."""
    return identity_of(self._sources, self._deal, self._labels)

  @property
  def outline(self) -> str:
    """See `Source`."""
    return outline_of(self._sources, self._deal, self._labels)

  def __len__(self) -> int:
    return int(self._ends[-1])

  @property
  def several_labels(self) -> bool:
    """See `Source`."""
    return any(source.several_labels for source in self._sources)

  @property
  def counts_quickly(self) -> bool:
    """See `Source`; multiple labels are read record by record."""
    return super().counts_quickly and not self.several_labels

  @property
  def image_shape(self) -> tuple[int, int, int] | None:
    """See `Source`."""
    shapes = {source.image_shape for source in self._sources}
    return shapes.pop() if len(shapes) == 1 else None

  @property
  def decodes(self) -> bool:
    """See `Source`."""
    return any(source.decodes for source in self._sources)

  def padding_of(self, index: int) -> int:
    """See `Source`."""
    which, place = self._locate(index)
    return self._sources[which].padding_of(place)

  def check(self) -> tuple[MissingFile, ...]:
    """See `Source`."""
    return tuple(lost for source in self._sources for lost in source.check())

  def shape(self, index: int) -> tuple[int, int, int]:
    """See `Source`."""
    which, place = self._locate(index)
    return self._sources[which].shape(place)

  def where(self, index: int) -> str:
    """See `Source`."""
    which, place = self._locate(index)
    return self._sources[which].where(place)

  def read(self, index: int) -> Record:
    """See `Source`."""
    which, place = self._locate(index)
    sample = self._sources[which].read(place)
    return Record(sample.image, self._labels.of(which, sample.labels))

  def labels_of(self, index: int) -> tuple[int, ...]:
    """See `Source`."""
    which, place = self._locate(index)
    return self._labels.of(which, self._sources[which].labels_of(place))

  def labels(self) -> np.ndarray:
    """See `Source`."""
    counts = np.diff(self._ends, prepend=0).tolist()
    found = []
    for source, order, table, count in zip(
      self._sources, self._orders, self._labels.tables, counts, strict=True
    ):
      if len(table) <= 1:
        found.append(np.full(count, *table or (0,), np.int32))
      else:
        own = source.labels()[order(np.arange(count))]
        found.append(np.array(table, np.int32)[own])
    return np.concatenate(found)

  def _locate(self, index: int) -> tuple[int, int]:
    """Returns the number of a record's source, and its index in it."""
    check_index(index, len(self))
    which = int(np.searchsorted(self._ends, index, side="right"))
    first = int(self._ends[which - 1]) if which else 0
    return which, int(self._orders[which](np.array([index - first]))[0])


def identity_of(sources: Sequence[Source], deal: Deal, labels: Labels) -> str:
  """Returns the identity of a mixture, or of its only source."""
  return _describe([source.identity for source in sources], deal, labels)


def earlier_identity_of(
  sources: Sequence[Source], deal: Deal, labels: Labels
) -> str:
  """Returns the identity in versions that padded all images of 28 px."""
  return _describe([s.earlier_identity for s in sources], deal, labels)


def outline_of(sources: Sequence[Source], deal: Deal, labels: Labels) -> str:
  """Returns the part of the identity known without reading all files."""
  return _describe([source.outline for source in sources], deal, labels)


def _describe(sources: Sequence[str], deal: Deal, labels: Labels) -> str:
  if len(sources) == 1:
    return sources[0]
  parts = [
    f"{share / _UNIT:.9g} of {source} as {table}"
    for share, source, table in zip(
      deal.shares, sources, labels.tables, strict=True
    )
  ]
  return f"mixture/{' + '.join(parts)}"
