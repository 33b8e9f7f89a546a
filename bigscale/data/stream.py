"""The stream of one process's batches and its checkpointed state."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.data import ahead, mixture
from bigscale.data.batches import Position, StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.reading import allowed_bad
from bigscale.data.sequence import Fault
from bigscale.data.sources import Source
from bigscale.spec import DataSpec
from bigscale.types import Batch

# Version of identities in states. Version 2 covers content; before, identities
# covered names and sizes.
SOURCE_FORM = 2

Decide = Callable[[Callable[[], str]], str]

# Number of bad records listed in an error message.
_MAX_LISTED = 100


def alone(choose: Callable[[], str]) -> str:
  """Calls `choose`; the `Decide` function of a single process."""
  return choose()


class Stream:
  """An endless iterator of one process's batches (see `pipeline.make`).

  An error does not change the position of the stream.
  """

  def __init__(
    self, batches: StepBatches, spec: DataSpec, decide: Decide = alone
  ) -> None:
    self._batches = batches
    self._spec = spec
    self._decide = decide
    self._reader = ahead.open_reader(batches, spec)
    self._faults: list[Fault] = []
    # Indices of unusable records, for each source of the mixture.
    self._bad = [set[int]() for _ in batches.records.mix.sources]
    # Number of records that this process read from all sources.
    self._read = 0
    # Identities that the same records had before some were fixed or damaged.
    self._accepted: list[str] = []
    self._start_at(Position())

  @functools.cached_property
  def identity(self) -> str:
    """Identity of the content and mixture of the stream.

    All processes must access it together. One of them reads the files.
    """
    mix = self._batches.records.mix
    return self._decide(lambda: mixture.identity_of(*mix))

  @property
  def outline(self) -> str:
    """Part of the identity known without reading all files; see `Source`."""
    return mixture.outline_of(*self._batches.records.mix)

  @property
  def images(self) -> int:
    """Number of different images: one epoch of every source."""
    return sum(map(len, self._batches.records.mix.sources))

  @property
  def sources(self) -> tuple[Source, ...]:
    """Sources of the stream; a single one if there is no mixture."""
    return self._batches.records.mix.sources

  @property
  def places(self) -> tuple[str, ...]:
    """Paths or names of the sources."""
    return self._spec.sources

  @property
  def readers(self) -> str:
    """Number and kind of readers, such as `2 threads`; see `DataSpec`."""
    return str(self._reader)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """Returns the next step's `Batch` of numpy arrays.

    Raises:
      DataError: a record cannot be read, or too many records are unusable.
      ValueError: the stream is closed.
    """
    if self._closed:
      raise ValueError("the stream is closed; `set_state` opens it again")
    try:
      element = next(self._elements)
      self._faults += element.faults
      self._read += self._batches.batches * len(self._batches.rows)
      self._count(element.faults)
    except Exception:
      # The reader drops a failed step, so restart it at the same position.
      self._start_at(self._position)
      raise
    self._position = self._position.after(self._batches.records_a_step)
    return element.batch

  def _count(self, faults: Sequence[Fault]) -> None:
    for fault in faults:
      bad = self._bad[fault.part]
      bad.add(fault.index)
      size = self._sizes[fault.part]
      allowed = allowed_bad(self._spec, size)
      if len(bad) > allowed:
        # Every process lists its own records here, because only those of
        # process 0 reach events.jsonl when several processes stop suddenly.
        listed = ", ".join(map(str, sorted(bad)[:_MAX_LISTED]))
        more = ", ..." if len(bad) > _MAX_LISTED else ""
        # A user's source may not define `where`.
        where = getattr(self.sources[fault.part], "where", None)
        file = f" ({where(fault.index)})" if where else ""
        raise DataError(
          f"{len(bad)} records of {fault.source} could not be used, the last "
          f"of them record {fault.index}{file}: {fault.reason}; "
          f"data.max_bad_fraction={self._spec.max_bad_fraction} allows "
          f"{allowed} of {size}. Allow more, also when resuming the run "
          f"(--config.data.max_bad_fraction={self._proposal(fault.part)}); or "
          f"fix records {listed}{more} ('bigscale data verify PATH' lists "
          "what is wrong) and resume with --accept_data, because fixed files "
          "have different content from the data the run started with"
        )

  def _proposal(self, part: int) -> float:
    """Proposes a fraction above that of the records read so far."""
    shares = self._batches.records.mix.deal.shares
    read = self._read * shares[part] / sum(shares)
    # Three standard deviations above the count, plus 4 for small counts.
    bad = len(self._bad[part])
    most = (bad + 3 * math.sqrt(bad) + 4) / read
    return min(1.0, max(0.01, math.ceil(100 * most) / 100))

  def read_at(
    self, indices: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, tuple[Fault, ...]]:
    """Reads the records at stream indices, without moving.

    Args:
      indices: [N] stream indices.

    Returns:
      Images [N, R, R, C] uint8 and labels [N] int32, and the records that were
      replaced.

    Raises:
      DataError: a record cannot be read.
    """
    batches = self._batches
    images = np.empty((len(indices), *batches.image_shape), np.uint8)
    labels = np.zeros(len(indices), np.int32)
    faults = batches.records.read_into(np.asarray(indices), images, labels)
    return images, labels * batches.labeled, faults

  @property
  def repeat_rate(self) -> float:
    """Probability that two random records of the stream are the same."""
    shares = self._batches.records.mix.deal.shares
    total = sum(shares)
    return sum(
      (share / total) ** 2 / len(source)
      for share, source in zip(shares, self.sources, strict=True)
    )

  def take_faults(self) -> tuple[Fault, ...]:
    """Returns the records that this process replaced since the last call."""
    faults, self._faults = tuple(self._faults), []
    return faults

  def skip(self, records: int) -> tuple[int, int]:
    """Skips the next `records` records; every later state includes the skip.

    Returns:
      Position range [start, end) of the skipped records.
    """
    start, end = self._position.next_range(records)
    self._elements.close()
    self._start_at(self._position.without(start, end))
    return start, end

  def get_state(self) -> dict[str, Any]:
    """Returns the position as JSON values, equal on all processes."""
    state = self._position.to_json() | {
      "source": self.identity,
      "source_form": SOURCE_FORM,
      "records": self._sizes,
    }
    return state | ({"accepted": self._accepted} if self._accepted else {})

  @property
  def _sizes(self) -> list[int]:
    return [len(source) for source in self.sources]

  def set_state(
    self, state: Mapping[str, Any], *, accept: bool = False
  ) -> None:
    """Moves to a saved position; the batch and process counts may differ.

    Args:
      state: output of `get_state`.
      accept: whether to accept data whose content differs from that of `state`.
        Earlier states remain valid.

    Raises:
      DataError: `state` is not an output of `get_state`, or is for other data.
    """
    position = Position.from_json(state)
    alike = {*self._accepted, *state.get("accepted", ())}
    if alike & {state.get("source"), self.identity}:
      alike.add(state["source"])
    else:
      self._check(state, accept)
    self._accepted = sorted({*alike, *self._accepted} - {self.identity})
    self._elements.close()
    self._start_at(position)

  def _check(self, state: Mapping[str, Any], accept: bool) -> None:
    """Raises `DataError` unless the data match a state, or are accepted."""
    earlier = ""
    if state.get("source_form") != SOURCE_FORM:
      mix = self._batches.records.mix
      earlier = self._decide(lambda: mixture.earlier_identity_of(*mix))
    try:
      check_same(state, self.identity, earlier, self._spec)
    except DataError:
      if not accept:
        raise
      check_alike(state, self._sizes)
      self._accepted.append(state["source"])

  def close(self) -> None:
    """Stops reading ahead; `set_state` opens the stream again."""
    self._closed = True
    self._elements.close()
    self._reader.close()

  def _start_at(self, position: Position) -> None:
    self._closed = False
    self._position = position
    self._elements = self._reader.read_from(position)


def check_same(
  state: Mapping[str, Any], identity: str, earlier: str, spec: DataSpec
) -> None:
  """Checks that data match a stream's state.

  Args:
    state: state of a stream; a state without an identity passes.
    identity: identity of the data.
    earlier: identity of the data in versions whose states lack `source_form`.
    spec: data spec of the run.

  Raises:
    DataError: the data differ, or the state is too old to compare.
  """
  of_today = state.get("source_form") == SOURCE_FORM
  if state.get("source") in (None, identity if of_today else earlier):
    return
  source = state["source"]
  where = ", ".join(spec.sources)
  if not of_today:
    raise DataError(
      f"the checkpoint was saved by an earlier version, which identified files "
      f"by name and size instead of content, and padded all images of 28 px "
      f"({source}): whether {where} ({identity}) is the same is unknown; "
      "resume with the version that started the run, or start a new run with "
      "--init_from. A sharded set of 28 px images is the same after adding "
      '"padding": 2 to its manifest.json'
    )
  raise DataError(
    f"the checkpoint was trained on {source}, but the run reads {identity} in "
    f"{where}: the data changed; restore the old data, or pass the path of a "
    "copy as --data=PATH. If these are the same records, and some were fixed "
    "or damaged, accept them with --accept_data, which the run records; "
    "otherwise start a new run with --init_from"
  )


def check_alike(state: Mapping[str, Any], sizes: Sequence[int]) -> None:
  """Checks that a stream's positions mean the same records in other data.

  Args:
    state: state of the stream; a state of an earlier version, without record
      counts, passes.
    sizes: number of records of each source of the other data.

  Raises:
    DataError: the record counts differ, so the order would change.
  """
  known = state.get("records", sizes)
  if list(known) != list(sizes):
    raise DataError(
      f"--accept_data is for the same records with different content, but "
      f"there are {', '.join(map(str, sizes))} records now and "
      f"{', '.join(map(str, known))} in the checkpoint, so their order would "
      "change; restore the old data, or start a new run with --init_from"
    )
