"""The stream of one process's batches, and its state."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bigscale.data import ahead, mixture
from bigscale.data.batches import Position, StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.reading import allowed_bad
from bigscale.data.sequence import Fault
from bigscale.data.sources import Source
from bigscale.spec import DataSpec
from bigscale.types import Batch

# Of the identities in states: 2 cover content; before it, names and sizes.
SOURCE_FORM = 2

Decide = Callable[[Callable[[], str]], str]

# Of bad records, in a message.
_MOST_LISTED = 100


def alone(choose: Callable[[], str]) -> str:
  """What decides where there is one process."""
  return choose()


class Stream:
  """An endless iterator of one process's batches (see `pipeline.make`).

  After an error the stream stands where it stood before.
  """

  def __init__(
    self, batches: StepBatches, spec: DataSpec, decide: Decide = alone
  ) -> None:
    self._batches = batches
    self._spec = spec
    self._decide = decide
    self._reader = ahead.open_reader(batches, spec)
    self._faults: list[Fault] = []
    # Records that could not be used, of each source of the mixture.
    self._bad = [set[int]() for _ in batches.records.mix.sources]
    # By this process, of all sources.
    self._read = 0
    # Identities of the same records before some were mended or damaged.
    self._accepted: list[str] = []
    self._start_at(Position())

  @functools.cached_property
  def identity(self) -> str:
    """Names the content and mixture of what is read.

    All processes ask for it together; one of them reads the files for it.
    """
    mix = self._batches.records.mix
    return self._decide(lambda: mixture.identity_of(*mix))

  @property
  def outline(self) -> str:
    """What can be told of it without reading all files; see `Source`."""
    return mixture.outline_of(*self._batches.records.mix)

  @property
  def images(self) -> int:
    """How many different ones there are: an epoch of every source."""
    return sum(map(len, self._batches.records.mix.sources))

  @property
  def sources(self) -> tuple[Source, ...]:
    """The sources of the stream, one where there is no mixture."""
    return self._batches.records.mix.sources

  @property
  def places(self) -> tuple[str, ...]:
    """Where the sources are read."""
    return self._spec.sources

  @property
  def readers(self) -> str:
    """Who reads: `2 threads`, say; see `DataSpec`."""
    return str(self._reader)

  def __iter__(self) -> Iterator[Batch]:
    return self

  def __next__(self) -> Batch:
    """The next step's `Batch` of numpy arrays.

    Raises:
      DataError: a record cannot be read, or too many could not.
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
      # Who reads ahead drops the failed element, and would go on after it.
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
        # Every process lists its own here: at a sudden end of many, only
        # process 0's come into events.jsonl.
        listed = ", ".join(map(str, sorted(bad)[:_MOST_LISTED]))
        more = ", ..." if len(bad) > _MOST_LISTED else ""
        # Sources by others may not know.
        where = getattr(self.sources[fault.part], "where", None)
        file = f" ({where(fault.index)})" if where else ""
        raise DataError(
          f"{len(bad)} records of {fault.source} could not be used, the last "
          f"of them record {fault.index}{file}: {fault.reason}; "
          f"data.max_bad_fraction={self._spec.max_bad_fraction} allows "
          f"{allowed} of {size}. Allow more, which a run that resumes may do "
          f"(--config.data.max_bad_fraction={self._enough(fault.part)}); or "
          f"mend records {listed}{more} ('bigscale data verify PATH' lists "
          "what is wrong) and go on with --accept_data: mended files are, by "
          "their content, other data than the run began with"
        )

  def _enough(self, part: int) -> float:
    """A fraction to propose, by the records read so far: more than it is."""
    shares = self._batches.records.mix.deal.shares
    read = self._read * shares[part] / sum(shares)
    # Three standard deviations of a count above it; of few, some besides.
    bad = len(self._bad[part])
    most = (bad + 3 * math.sqrt(bad) + 4) / read
    return min(1.0, max(0.01, math.ceil(100 * most) / 100))

  def take_faults(self) -> tuple[Fault, ...]:
    """What was replaced in the batches since the last call, by this process."""
    faults, self._faults = tuple(self._faults), []
    return faults

  def skip(self, records: int) -> tuple[int, int]:
    """Leaves out the next so many records, for good: no state forgets it.

    Returns:
      First position left out, and the one after the last.
    """
    start, end = self._position.next_range(records)
    self._elements.close()
    self._start_at(self._position.without(start, end))
    return start, end

  def get_state(self) -> dict[str, Any]:
    """The position, as plain JSON, equal on all processes."""
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
    """Moves to a position, whatever run shape it was saved by.

    Args:
      state: what `get_state` gave.
      accept: take the data that are here for those of `state`, also where
        their content is another. States of before stay good.

    Raises:
      DataError: `state` is not what `get_state` gave, or is of other data.
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
    """Raises `DataError` unless the data are those of a state, or accepted."""
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
    """Stops reading ahead; no more batches until `set_state`."""
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
  """Checks that data are those that a stream's state is of.

  Args:
    state: of a stream; one that does not name its data passes.
    identity: of the data.
    earlier: their identity to versions whose states have no `source_form`.
    spec: names them.

  Raises:
    DataError: they are others, or it cannot be told.
  """
  of_today = state.get("source_form") == SOURCE_FORM
  if state.get("source") in (None, identity if of_today else earlier):
    return
  source = state["source"]
  where = ", ".join(spec.sources)
  if not of_today:
    raise DataError(
      f"the checkpoint was saved by an earlier version, which knew files by "
      f"names and sizes, not by content, and framed all images of 28 px "
      f"({source}): whether {where} ({identity}) is the same cannot be told; "
      "go on with the version that began the run, or start a new run with "
      "--init_from. A set in shards of 28 px is the same once its "
      'manifest.json says "padding": 2'
    )
  raise DataError(
    f"the checkpoint stands in {source}, but the run reads {identity} in "
    f"{where}: the data changed; put the old data back, or name the place of a "
    "copy by --data=PATH. If these are the same records, some of them mended "
    "or damaged, go on with them by --accept_data, which is written into the "
    "run; otherwise start a new run with --init_from"
  )


def check_alike(state: Mapping[str, Any], sizes: Sequence[int]) -> None:
  """Checks that places of a stream mean the same records in other data.

  Args:
    state: of the stream; one of an earlier version, which does not count its
      records, passes.
    sizes: records of each source of the other data.

  Raises:
    DataError: they are more or fewer, and all would come in another order.
  """
  known = state.get("records", sizes)
  if list(known) != list(sizes):
    raise DataError(
      f"--accept_data is for the same records with other content, and there "
      f"are {', '.join(map(str, sizes))} now where the checkpoint knows "
      f"{', '.join(map(str, known))}: all would come in another order; put the "
      "old data back, or start a new run with --init_from"
    )
