"""Compares a run with a fixed set of training images at every probe.

All processes run the programs. Process 0 compares their results with the
anchor and sends the scalars to the others, so that all verdicts are equal.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bigscale.data.stream import Stream
from bigscale.metrics.features import Features
from bigscale.monitor.anchors import columns
from bigscale.monitor.anchors.columns import CERTAIN
from bigscale.monitor.anchors.data import DataAnchor, Described, Shift
from bigscale.monitor.anchors.fakes import FakesAnchor, Grid, make_grid
from bigscale.monitor.anchors.tensors import Sketch, TensorWatch
from bigscale.monitor.packed import pack, unpack
from bigscale.parallel import multihost
from bigscale.sampling import latents
from bigscale.spec import SpecError
from bigscale.train.anchor_images import AnchorImages, joined, read, to_host
from bigscale.train.anchor_programs import (
  Programs,
  compile_in_processes,
  make_programs,
  place_variables,
)
from bigscale.train.build import Built
from bigscale.train.recorder import Recorder
from bigscale.train.state import GanState, average_of
from bigscale.types import Batch, PyTree

_log = logging.getLogger(__name__)

_GRID_SEED = 3
# On a pod, samples are most of a look's cost. G's are only compared with the
# average's, so they are drawn at every fourth look.
_LOOKS_PER_G = 4
_PRIME = np.uint64(65521)


class Look(NamedTuple):
  """Results of the programs at a step, on the devices.

  Attributes:
    sketches: pairs of sums and norms, by `g`, `d` and `average`.
    reals: measurements of reals; None between probes and without an anchor.
    hashes: [N, 2] uint32 hashes of the step's images.
    fakes: measurements of the grid by the average and, at some probes, by G.
  """

  sketches: Mapping[str, Any]
  reals: Described | None = None
  hashes: Any = None
  fakes: tuple[Described, ...] = ()


class Anchors:
  """The anchor of one start of a run."""

  def __init__(self, built: Built, stream: Stream, recorder: Recorder) -> None:
    """Computes nothing; see `open`.

    Args:
      built: functions of the run.
      stream: stream of the run's images.
      recorder: writer of the run's events.
    """
    self._built = built
    self._stream = stream
    self._recorder = recorder
    self._spec = built.spec.monitor
    self._programs: Programs | None = None
    self._variables: PyTree = {}
    self._grid: Grid | None = None
    self._latents: np.ndarray | None = None
    self._data: DataAnchor | None = None
    self._fakes: FakesAnchor | None = None
    self._tensors = TensorWatch()
    self._before: dict[str, Sketch] | None = None
    # Product of the decays since the last look; None before the first.
    self._decays: float | None = None
    # What recent measurements depend on.
    self._key: list[Any] = []
    # Hash of each image that the run first read, or that was accepted since.
    self._fingerprints: dict[str, Any] | None = None
    self._changed = 0.0
    self._given: Mapping[str, Any] = {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Restores a state from `get_state`.

    The recent past is dropped if it was measured in another way.
    """
    self._given = state
    self._fingerprints = state.get("fingerprints", self._fingerprints)
    if self._programs is not None:
      self._restore()

  def _restore(self) -> None:
    state = self._given
    if state.get("key") != self._key:
      return
    self._tensors.set_state(state["tensors"])
    self._decays = state["decays"]
    self._before = state["before"] and {
      name: Sketch(*map(unpack, sketch))
      for name, sketch in state["before"].items()
    }
    if self._data is not None and state["data"]:
      self._data.set_state(state["data"])

  def get_state(self) -> dict[str, Any]:
    """Returns the state to store in a checkpoint, as plain JSON."""
    if self._programs is None:
      return {"fingerprints": self._fingerprints}
    return {
      "key": self._key,
      "tensors": self._tensors.get_state(),
      "decays": self._decays,
      "before": self._before
      and {k: [pack(x) for x in v] for k, v in self._before.items()},
      "data": self._data and self._data.get_state(),
      "fingerprints": self._fingerprints,
    }

  def open(
    self, step: int, network: Features | None, *, accept: bool = False
  ) -> None:
    """Reads the anchor's images and describes them; on all processes.

    A source that is too small, or batches that are not random samples of it,
    turn comparisons off. An event says which are on, and why others are off.

    Args:
      step: step that the run starts from.
      network: network whose features are compared, on the run's mesh.
      accept: whether the user accepted that records changed.
    """
    if network is not None and not hasattr(network, "outputs"):
      network = None
    built, found, off = self._built, None, ""
    try:
      self._programs = make_programs(built, network)
      self._variables = place_variables(network, built.mesh)
      compile_in_processes(self._programs, built, self._variables)
      found = read(built, self._stream, self._programs, self._variables)
      self._draw_grid()
    except SpecError as error:
      off = str(error)
    except Exception as error:
      _log.exception("the anchor failed; training continues without it")
      off = f"the anchor failed: {error}"
    # Programs run on all processes or on none.
    if not multihost.all_true("anchor", self._programs is not None):
      self._programs, found = None, None
    if multihost.is_main() and found is not None:
      try:
        off = self._compare_with(found)
        self._check_changed(step, found, accept)
      except Exception as error:
        _log.exception("the anchor failed; training continues without it")
        off, self._data = f"the anchor failed: {error}", None
    self._key = [
      built.abstract_heldout.images.shape[1],
      self._spec.anchor.images,
      network.fingerprint if network is not None else "",
      built.mesh.size,
    ]
    self._restore()
    self._recorder.event(
      "anchor",
      step,
      images=len(found.hashes) if found is not None else 0,
      network=network.name if network is not None else None,
      tests=list(self._data.tests) if self._data else [],
      **({"off": off} if off else {}),
    )

  def _draw_grid(self) -> None:
    model = self._built.spec.model
    grid = make_grid(self._programs.count, model.num_classes)
    key = jax.random.key(_GRID_SEED)
    z = latents.draw(key, grid.per_label, model, None, "resample")
    self._latents = np.asarray(z)[grid.latents]
    self._grid = grid

  def _describe(self, images: jax.Array, labels: jax.Array) -> Described:
    return self._programs.describe(self._variables, images, labels)

  def _compare_with(self, found: AnchorImages) -> str:
    """Makes the comparisons on process 0; returns why some are off, or ""."""
    spec, count = self._built.spec, self._programs.count
    rate = max(self._stream.repeat_rate, found.pair_rate)

    def make(shuffled: bool) -> DataAnchor:
      classes = spec.model.num_classes
      return DataAnchor(found.anchor, classes, count, rate, shuffled)

    off = ""
    if not spec.data.shuffle:
      off = "data.shuffle=False: batches are not random samples of the data"
    self._data = make(not off)
    if not off:
      off = columns.trial(self._data, found.trial, count)
      # Made again, because the trial's batches are not the run's.
      self._data = make(not off)
    self._fakes = FakesAnchor(self._data, self._grid)
    return off

  def _check_changed(
    self, step: int, found: AnchorImages, accept: bool
  ) -> None:
    """Reports images that differ from those that the first start read."""
    labels = found.anchor.labels.astype(np.uint64)
    now = ((found.hashes + labels) % _PRIME).astype(np.uint16)
    before = self._fingerprints and unpack(self._fingerprints)
    if accept or before is None or len(before) != len(now):
      self._fingerprints = pack(now)
      return
    self._changed = float((before != now).mean())
    if self._changed:
      self._recorder.event("anchor_changed", step, share=self._changed)
      self._recorder.note(
        f"step {step}: {self._changed:.1%} of the anchor's training images "
        "differ from those that the run first read: the records or their "
        "decoding changed; accept them with --accept_data"
      )

  def is_due(self, step: int) -> bool:
    """Returns whether the run is compared with the anchor after a step."""
    return self._programs is not None and step % self._spec.interval == 0

  def look(self, step: int, state: GanState, batch: Batch) -> Look | None:
    """Starts the programs that are due after a step.

    Args:
      step: the step.
      state: state after it.
      batch: its batch, arrays [K, B, ...].
    """
    due = self.is_due(step)
    if not (due or self.is_due(step + 1)):
      return None
    try:
      return self._look(step, state, batch)
    except Exception:
      self._fail(step)
      return None

  def _look(self, step: int, state: GanState, batch: Batch) -> Look:
    in_turn = self._programs.in_turn
    sketches = in_turn(self._programs.sketch(in_turn(state)))
    if not self.is_due(step) or self._grid is None:
      return Look(sketches)
    images, labels, hashes = in_turn(self._programs.pick(batch))
    reals = in_turn(self._describe(images, labels))
    fakes = []
    drawn_from = [state.ema]
    if step // self._spec.interval % _LOOKS_PER_G == 0:
      drawn_from.append(average_of(state.g))
    for weights in drawn_from:
      drawn = self._built.sample(weights, self._latents, self._grid.labels)
      fakes.append(in_turn(self._describe(in_turn(drawn), self._grid.labels)))
    return Look(sketches, reals, hashes, tuple(fakes))

  def _fail(self, step: int) -> None:
    """Leaves the anchor out from now on."""
    _log.exception("the anchor failed; training continues without it")
    self._programs = None
    self._recorder.event("monitor_failed", step)

  def read(
    self, step: int, look: Look | None, row: Mapping[str, float]
  ) -> dict[str, float]:
    """Returns the scalars of a step, the same on all processes.

    Args:
      step: the step; every step must be read once, in order.
      look: result of `look` for this step.
      row: other scalars of the step.
    """
    decay = row.get("ema/decay")
    if self._decays is not None and decay is not None:
      self._decays *= decay
    if look is None:
      return {}

    if not self.is_due(step):
      if multihost.is_main():
        self._before = _sketches(look)
      return {}

    def compare() -> dict[str, float] | None:
      try:
        return self._compare(look, row)
      except Exception:
        self._fail(step)
        return None

    found = multihost.decide("anchor", compare)
    if found is None:
      self._programs = None
    return found or {}

  def _compare(self, look: Look, row: Mapping[str, float]) -> dict[str, float]:
    sketches = _sketches(look)
    tensors = self._tensors.look(
      self._before, sketches, row.get("ema/decay"), self._decays, row
    )
    # A probe in every step is also the step before the next one.
    self._before = sketches if self._spec.interval == 1 else None
    self._decays = 1.0
    found: dict[str, float] = {}
    for name, one in tensors.items():
      found |= columns.of_tensors(name, one)
    if self._data is None:
      return found
    if self._changed:
      found |= columns.of_change(self._changed)
    reals = to_host(look.reals)
    classes = max(self._built.spec.model.num_classes, 1)
    wrong = (reals.labels < 0) | (reals.labels >= classes)
    if wrong.any():
      return found | columns.of_shift("labels", Shift(CERTAIN, 1.0))
    hashes = joined(look.hashes).tolist()
    for name, shift in self._data.look(reals, hashes).items():
      found |= columns.of_shift(name, shift)
    fakes = self._fakes.look(*map(to_host, look.fakes))
    return found | {f"anchor/fakes/{name}": x for name, x in fakes.items()}


def _sketches(look: Look) -> dict[str, Sketch]:
  found = jax.device_get(dict(look.sketches))
  return {name: Sketch(*map(np.asarray, pair)) for name, pair in found.items()}
