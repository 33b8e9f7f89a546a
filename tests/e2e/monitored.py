"""Short training runs that share compiled programs, with injected faults."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp

from bigscale.metrics.evaluator import Scored
from bigscale.metrics.looking import Asked
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import from_config
from bigscale.train import loop
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.disturb import Disturbance
from tests import fast_compile
from tests.e2e import tiny

STEPS = 16
# Records that a step reads: the G step of RpGAN reads its own batch.
READ = 2 * 8
FAULT = 10


def config(**monitor):
  """16 steps, a checkpoint every 4, snapshots and probes every 2.

  The warm-up is longer than the run, so only non-finite scalars raise an alarm.
  """
  settings = tiny.smallest()
  settings.total_kimg = STEPS * 8 / 1000
  settings.log = {"steps": 1, "num_samples": 4, "tensorboard": False}
  settings.evaluate = {"num_samples": 4, "batch_size": 4}
  settings.monitor = {
    "interval": 2,
    "num_samples": 4,
    "snapshot_interval": 2,
    "snapshots": 12,
    "verdict": {"warmup": 1000},
    "anchor": {"images": 0},
    "interventions": (),
    **monitor,
  }
  return settings


class Scores:
  """An evaluator that returns a constant score."""

  panels = ()

  def __init__(self):
    self.reference = {"images": 0}
    self.throughput = {}
    self.failed = {}
    self.asked = Asked((), (), num_samples=4, num_classes=0)

  def compare(self, looked):
    return Scored({"fd_classifier": 1.0})


@functools.cache
def compiled():
  """Returns the programs, which do not depend on the monitor's settings."""
  spec = from_config(config())
  built = build(spec, make_mesh(spec.mesh))
  quick = {}
  state, batch = built.abstract_state, built.abstract_batch
  arguments = {"step": (state, batch), "init": (jnp.int32(0),)}
  arguments["probe"] = (state, batch, built.abstract_heldout)
  for name, given in arguments.items():
    lowered = getattr(built, name).lower(*given)
    quick[name] = lowered.compile(fast_compile.OPTIONS)
  return built._replace(**quick)


def prepared(spec, disturbance):
  built = compiled()._replace(spec=spec)
  return loop.Prepared(built, Scores(), disturbance)


class Watched(Disturbance):
  """Puts NaN into D at some (step, attempt), and records the batches."""

  def __init__(self, faults=(), killed_at=None):
    self.faults = dict(faults)
    self.killed_at = killed_at
    self.batches = {}

  def batch(self, step, attempt, batch):
    if (attempt, step) == self.killed_at:
      raise KilledError
    pixels = batch.images.tobytes() + batch.labels.tobytes()
    self.batches[attempt, step] = hashlib.sha256(pixels).hexdigest()
    return batch

  def state(self, step, attempt, state):
    if self.faults.get(attempt) != step:
      return state
    leaves, structure = jax.tree.flatten(state.d.params)
    params = jax.tree.unflatten(structure, [leaves[0] * jnp.nan, *leaves[1:]])
    return state._replace(d=state.d._replace(params=params))


class KilledError(Exception):
  """Simulates a SIGKILL between two steps."""


@dataclasses.dataclass
class Ended:
  """A run that has ended.

  Attributes:
    path: folder of the run.
    state: state after the last step, None if the run did not finish.
    batches: digest of each batch, by (attempt, step).
  """

  path: pathlib.Path
  state: object
  batches: dict

  def lines(self, name):
    return [json.loads(x) for x in (self.path / name).read_text().splitlines()]

  def events(self, kind):
    return [e for e in self.lines("events.jsonl") if e["event"] == kind]

  def kinds(self):
    """Returns the kinds of the events, without `times`."""
    kinds = [e["event"] for e in self.lines("events.jsonl")]
    return [kind for kind in kinds if kind != "times"]

  def rows(self, attempt):
    """Returns the rows of an attempt by step, without times."""
    return {
      row["step"]: {
        name: value
        for name, value in row.items()
        if name != "seconds" and not name.startswith("perf/")
      }
      for row in self.lines("metrics.jsonl")
      if row["attempt"] == attempt and "d/loss" in row
    }

  def flops(self, attempt):
    """Returns by step the FLOP of kept steps and of all steps."""
    return {
      row["step"]: (row["perf/total_flops"], row["perf/spent_flops"])
      for row in self.lines("metrics.jsonl")
      if row["attempt"] == attempt and "d/loss" in row
    }

  def saved(self, folder="checkpoints"):
    """Returns the steps of the checkpoints on disk."""
    place = self.path / folder
    if not place.is_dir():
      return []
    return sorted(int(x.name) for x in place.iterdir() if x.name.isdecimal())

  def restored(self, step=None, folder="checkpoints"):
    built = compiled()
    checkpoints = Checkpoints(self.path, built.spec.checkpoint, folder)
    try:
      return checkpoints.restore(built.abstract_state, step)
    finally:
      checkpoints.close()


def run(path, *, faults=(), killed_at=None, **monitor):
  """Trains and returns the ended run."""
  watched = Watched(faults, killed_at)
  spec = from_config(config(**monitor))
  result = loop.train(spec, path, prepared=prepared(spec, watched))
  return Ended(path, result.state, watched.batches)
