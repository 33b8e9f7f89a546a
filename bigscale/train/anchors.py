"""Compares a run with a fixed set of training images at every probe.

All processes run the programs. Process 0 compares their results with the
anchor and sends the scalars to the others, so that all verdicts are equal.
"""

import concurrent.futures
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bigscale.data.stream import Stream
from bigscale.metrics.features import Features
from bigscale.monitor.anchors import columns
from bigscale.monitor.anchors.columns import CERTAIN
from bigscale.monitor.anchors.data import SMALLEST, DataAnchor, Described, Shift
from bigscale.monitor.anchors.fakes import FakesAnchor, Grid, make_grid
from bigscale.monitor.anchors.tensors import Sketch, TensorWatch
from bigscale.monitor.packed import pack, unpack
from bigscale.parallel import multihost, rows
from bigscale.parallel.sharding import batch_sharding
from bigscale.sampling import latents
from bigscale.train.anchor_programs import (
  Measured,
  Programs,
  make_programs,
  place_variables,
)
from bigscale.train.build import Built
from bigscale.train.hooks import Recorder
from bigscale.train.state import GanState, average_of
from bigscale.types import Batch, PyTree

_log = logging.getLogger(__name__)

# Seed of the choice of images and of the grid's latents.
_SEED = 3
_THREADS = 8
_PRIME = np.uint64(65521)


class Look(NamedTuple):
  """Results of the programs at a step, on the devices.

  Attributes:
    sketches: pairs of sums and norms, by `g`, `d` and `average`.
    reals: measurements of reals; None between probes and without an anchor.
    hashes: [N, 2] uint32 hashes of the step's images.
    fakes: measurements of the grid by the average and by G.
  """

  sketches: Mapping[str, Any]
  reals: Measured | None = None
  hashes: Any = None
  fakes: tuple[Measured, Measured] | None = None


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
    self._fingerprints: np.ndarray | None = None
    self._changed = 0.0
    self._given: Mapping[str, Any] = {}

  def set_state(self, state: Mapping[str, Any]) -> None:
    """Restores a state from `get_state`."""
    self._given = state
    if not state:
      return
    self._tensors.set_state(state["tensors"])
    self._decays = state["decays"]
    self._before = state["before"] and {
      name: Sketch(*map(unpack, sketch))
      for name, sketch in state["before"].items()
    }
    if self._data is not None and state.get("data"):
      self._data.set_state(state["data"])

  def get_state(self) -> dict[str, Any]:
    """Returns the state to store in a checkpoint, as plain JSON."""
    if self._programs is None:
      return dict(self._given)
    packed = self._fingerprints is not None and pack(self._fingerprints)
    return {
      "tensors": self._tensors.get_state(),
      "decays": self._decays,
      "before": self._before
      and {k: [pack(x) for x in v] for k, v in self._before.items()},
      "data": self._data and self._data.get_state(),
      "fingerprints": packed or self._given.get("fingerprints"),
    }

  def open(
    self, step: int, network: Features | None, *, accept: bool = False
  ) -> None:
    """Reads the anchor's images and describes them; on all processes.

    A source that is too small, or batches that are no random samples of it,
    turn comparisons off. An event says which are on, and why others are off.

    Args:
      step: step that the run starts from.
      network: network whose features are compared, on the run's mesh.
      accept: whether the user accepted that records changed.
    """
    if network is not None and not hasattr(network, "outputs"):
      network = None
    self._programs = make_programs(self._built, network)
    self._variables = place_variables(network, self._built.mesh)
    count = self._programs.count
    total = min(self._spec.anchor.images, self._stream.images)
    images = total // count * count
    off = ""
    if images < SMALLEST:
      off = (
        f"the anchor needs {SMALLEST} images, but the source has "
        f"{self._stream.images}"
      )
    found = None
    if not off:
      found, off = self._read(images)
    if found is not None:
      classes = self._built.spec.model.num_classes
      self._grid = make_grid(count, classes)
      z = latents.draw(
        jax.random.key(_SEED),
        self._grid.per_label,
        self._built.spec.model,
        None,
        "resample",
      )
      self._latents = np.asarray(z)[self._grid.latents]
    if not multihost.is_main():
      return
    if found is not None:
      try:
        off = self._compare_with(*found)
        self._check_changed(step, accept)
      except Exception as error:
        _log.exception("the anchor failed; training continues without it")
        off, self._data = f"the anchor failed: {error}", None
    self._recorder.event(
      "anchor",
      step,
      images=images if found is not None else 0,
      batch=count,
      network=network.name if network is not None else None,
      tests=list(self._data.tests) if self._data else [],
      **({"off": off} if off else {}),
    )
    if self._data is not None and self._given.get("data"):
      self._data.set_state(self._given["data"])

  def _read(
    self, images: int
  ) -> tuple[tuple[Described, Described, np.ndarray] | None, str]:
    """Reads and describes the anchor's images and some consecutive ones.

    Returns:
      Measurements of random images, of consecutive images, and hashes [N] of
      the random ones; None with the reason if they cannot be read.
    """
    count, total = self._programs.count, self._stream.images
    rng = np.random.default_rng((_SEED, self._built.spec.seed))
    if total <= 4 * images:
      chosen = rng.permutation(total)[:images]
    else:
      chosen = rng.integers(total, size=images)
    starts = total + rng.integers(total, size=columns.TRIALS)
    blocks = np.concatenate(
      [chosen.reshape(-1, count), starts[:, None] + np.arange(count)]
    )
    where = batch_sharding(self._built.mesh)
    mine = rows.local_rows(where, count)
    read, failure = [], ""
    try:
      with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        read = list(pool.map(lambda b: self._stream.read_at(b[mine]), blocks))
    except Exception as error:
      failure = f"the anchor's images cannot be read: {error}"
    if not multihost.all_true("anchor", not failure):
      return None, failure or "another process cannot read the anchor's images"
    measured, hashes = [], []
    for pixels, labels, _ in read:
      batch = rows.to_global(Batch(pixels[None], labels[None]), where)
      measured.append(self._describe(*self._programs.replicate(batch)))
      hashes.append(self._programs.pick(batch)[2])
    every = Described(
      *(np.concatenate(x) for x in zip(*map(_to_host, measured), strict=True))
    )
    joined = _joined(np.concatenate(jax.device_get(hashes)))
    parts = every.rows(0, images), every.rows(images, None)
    return (*parts, joined[:images]), ""

  def _describe(self, images: jax.Array, labels: jax.Array) -> Measured:
    return self._programs.describe(self._variables, images, labels)

  def _compare_with(
    self, anchor: Described, trial: Described, hashes: np.ndarray
  ) -> str:
    """Makes the comparisons on process 0; returns why some are off, or ""."""
    labels = anchor.labels.astype(np.uint64)
    self._fingerprints = ((hashes + labels) % _PRIME).astype(np.uint16)
    count = self._programs.count
    _, copies = np.unique(hashes, return_counts=True)
    pairs = int((copies * (copies - 1)).sum())
    rate = max(
      self._stream.repeat_rate, pairs / (len(hashes) * (len(hashes) - 1))
    )

    def make(shuffled: bool) -> DataAnchor:
      classes = self._built.spec.model.num_classes
      return DataAnchor(anchor, classes, count, rate, shuffled)

    off = ""
    if not self._built.spec.data.shuffle:
      off = "data.shuffle=False: batches are not random samples of the data"
    self._data = make(not off)
    if not off:
      off = columns.trial(self._data, trial, count)
      # Made again, because the trial's batches are not the run's.
      self._data = make(not off)
    self._fakes = FakesAnchor(self._data, self._grid)
    return off

  def _check_changed(self, step: int, accept: bool) -> None:
    """Reports anchor images that differ from those of earlier starts."""
    given = self._given.get("fingerprints")
    if not given or accept:
      return
    before = unpack(given)
    if len(before) != len(self._fingerprints):
      return  # Another number of images was set.
    self._changed = float((before != self._fingerprints).mean())
    if self._changed:
      self._recorder.event("anchor_changed", step, share=self._changed)
      self._recorder.note(
        f"step {step}: {self._changed:.1%} of the anchor's training images "
        "differ from those of the last start: the records or their decoding "
        "changed"
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
    programs, due = self._programs, self.is_due(step)
    if programs is None or not (due or self.is_due(step + 1)):
      return None
    sketches = programs.sketch(state)
    if not due or self._grid is None:
      return Look(sketches)
    images, labels, hashes = programs.pick(batch)
    fakes = tuple(
      self._describe(
        self._built.sample(weights, self._latents, self._grid.labels),
        self._grid.labels,
      )
      for weights in (state.ema, average_of(state.g))
    )
    return Look(sketches, self._describe(images, labels), hashes, fakes)

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
        _log.exception("the anchor failed; training continues without it")
        return None

    found = multihost.decide("anchor", compare)
    if found is None:
      self._programs = None
      self._recorder.event("monitor_failed", step)
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
      found |= columns.of_shift("source", Shift(CERTAIN, self._changed))
    reals = _to_host(look.reals)
    classes = max(self._built.spec.model.num_classes, 1)
    wrong = (reals.labels < 0) | (reals.labels >= classes)
    if wrong.any():
      return found | columns.of_shift("labels", Shift(CERTAIN, 1.0))
    hashes = _joined(jax.device_get(look.hashes)).tolist()
    for name, shift in self._data.look(reals, hashes).items():
      found |= columns.of_shift(name, shift)
    fakes = self._fakes.look(*map(_to_host, look.fakes))
    return found | {f"anchor/fakes/{name}": x for name, x in fakes.items()}


def _to_host(measured: Measured) -> Described:
  return Described(*map(np.asarray, jax.device_get(measured)))


def _sketches(look: Look) -> dict[str, Sketch]:
  found = jax.device_get(dict(look.sketches))
  return {name: Sketch(*map(np.asarray, pair)) for name, pair in found.items()}


def _joined(hashes_n2: np.ndarray) -> np.ndarray:
  """Returns [N] uint64 hashes of two halves."""
  high, low = np.asarray(hashes_n2, np.uint64).T
  return high << np.uint64(32) | low
