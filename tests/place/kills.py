r"""Kills a run on a bucket at random moments, many times.

  python -m tests.place.kills --kills=100
  python -m tests.place.kills --kills=100 --stops=0.3
  python -m tests.place.kills --kills=20 --faults=0.02
  python -m tests.place.kills --kills=100 --store=s3

The run has the files of a training run (claim, rows, events, checkpoints), but
its step only adds to an array, so that a start takes a second. Each start is
killed after a random time, in a save if the time says so. A part of the starts
is stopped instead (SIGSTOP). Another process then takes over, and the first one
continues: it must end with an error and change nothing. With --faults, a share
of all requests fails: 503, closed connections, lost and cut answers. Rows and
arrays must be those of a run that nobody disturbs. Prints JSON. The exit code
is 1 if a rule is violated.
"""

import argparse
import collections
import faulthandler
import importlib
import json
import logging
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

import jax
import numpy as np

from bigscale.parallel.environment import prepare_cpu
from bigscale.place import log, open_place, prepare
from bigscale.spec import CheckpointSpec, SpecError, from_config
from bigscale.train import folder as folders
from bigscale.train import step_names
from bigscale.train.bucket_checkpoint import BucketCheckpoints
from bigscale.train.lease import Lease, LeaseLostError
from bigscale.train.recorder import Recorder
from tests.e2e import tiny
from tests.place import servers
from tests.place.proxy import Proxy

# Loaded here, so that a start of the run does not wait for them.
prepare()
importlib.import_module("gcsfs")
importlib.import_module("google.cloud.storage")
importlib.import_module("s3fs")

EVERY = 3
LEASE_SECONDS = 2.0
LOST, REFUSED = 70, 2
_STEP_SECONDS = 0.02
# Share of the starts that are killed before their first step.
_EARLY = 0.2
_START_SECONDS = 60.0
# A run that has not ended then hangs.
_END_SECONDS = 300.0


def state_at(step: int) -> dict[str, np.ndarray]:
  """Returns the arrays after a step."""
  rows = np.arange(64 * 512, dtype=np.float32).reshape(64, 512)
  return {"w": rows + step, "step": np.asarray(step, np.int32)}


class NoMeter:
  """Counts no FLOPs, because counting them takes seconds."""

  def __getattr__(self, name: str):
    return lambda *_: {}


def work(url: str, steps: int, ready: Any) -> None:
  """Runs from the newest checkpoint to the end, in a process of its own."""
  prepare_cpu()
  logging.getLogger("google.auth").setLevel(logging.ERROR)
  config = tiny.smallest()
  config.log.tensorboard = False
  spec = from_config(config)
  claim = Lease(LEASE_SECONDS)
  folder = folders.create(url, spec, ["kills"], claim)
  checkpoints = BucketCheckpoints(
    folder.path, CheckpointSpec(keep=2, keep_best=0), claim=claim
  )
  where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
    state_at(0),
  )
  first, state = 0, jax.device_put(state_at(0), where)
  if checkpoints.steps():
    found = checkpoints.restore(abstract)
    checkpoints.set_damaged_aside(found.damaged)
    first, state = found.step, found.state
  recorder = Recorder(folder, spec, first, meter=NoMeter())
  checkpoints.attend(recorder, 600.0)
  recorder.event("start", first, damaged=len(found.damaged) if first else 0)
  ready.set()
  try:
    for step in range(first + 1, steps + 1):
      recorder.check()
      time.sleep(_STEP_SECONDS)
      state = {"w": state["w"] + 1, "step": state["step"] + 1}
      recorder.row(step, {"value": float(state["w"][0, 0])})
      if step % EVERY == 0 or step == steps:
        checkpoints.save(step, state, {"next": step}, {})
    checkpoints.finish(
      steps, lambda: checkpoints.save(steps, state, {"next": steps}, {})
    )
    recorder.event("done", steps)
  finally:
    recorder.close()
    checkpoints.close()
    claim.release()


def enter(url: str, steps: int, errors: str, ready: Any) -> None:
  """Runs `work` and ends with its exit code."""
  faulthandler.enable()  # Shows where a process was that did not end.
  try:
    work(url, steps, ready)
  except LeaseLostError:
    os._exit(LOST)
  except SpecError:  # Another process holds the folder.
    os._exit(REFUSED)
  except BaseException:
    with open(errors, "a") as file:
      file.write(traceback.format_exc())
    os._exit(1)
  os._exit(0)


class Kills:
  """A run that is killed and restarted until it has had its kills."""

  def __init__(
    self, store: str, seed: int, stops: float, errors: pathlib.Path
  ) -> None:
    self.store = store
    self.random = random.Random(seed)
    self.stops = stops
    self.errors = errors
    self.broken: list[str] = []
    self.torn: set[str] = set()
    self.counts: collections.Counter[str] = collections.Counter()
    self.context = multiprocessing.get_context("forkserver")
    self.context.set_forkserver_preload(["tests.place.kills"])
    self.url, self.steps, self.runs = "", 0, 0

  def start(self) -> multiprocessing.Process:
    self.ready = self.context.Event()
    child = self.context.Process(
      target=enter, args=(self.url, self.steps, str(self.errors), self.ready)
    )
    child.start()
    return child

  def run(self, kills: int, steps: int) -> dict:
    """Kills runs of `steps` steps until there were `kills` kills."""
    began = time.monotonic()
    while self.counts["kills"] + self.counts["stops"] < kills:
      self.runs += 1
      self.url = f"{self.store}://{servers.BUCKET}/run{self.runs}"
      self.steps = steps
      while self.counts["kills"] + self.counts["stops"] < kills:
        if self.disturb() == 0:
          break
      code = self.wait(self.start())
      if code != 0:
        self.broken.append(f"run {self.runs}: the last start ended with {code}")
      self.check()
    return {
      "runs": self.runs,
      "steps": steps,
      **self.counts,
      "seconds": round(time.monotonic() - began),
      "broken": self.broken,
    }

  def disturb(self) -> int | None:
    """Starts the run and kills or stops it; returns its code if it ended."""
    child = self.start()
    if self.random.random() < _EARLY:
      child.join(self.random.uniform(0.5, 4.0))
    else:
      self.ready.wait(_START_SECONDS)
      child.join(self.random.uniform(0.0, 8.0))
    if child.exitcode is not None:
      self.counts["ended before"] += 1
      if child.exitcode:
        self.broken.append(f"run {self.runs}: ended with {child.exitcode}")
      return child.exitcode
    if self.random.random() < self.stops and open_place(self.url).list(
      "leases"
    ):
      return self.stop(child)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    self.counts["kills"] += 1
    self.note_torn()
    print(dict(self.counts), file=sys.stderr, flush=True)
    return None

  def note_torn(self) -> None:
    """Counts kills in a save, which leave an incomplete step."""
    saved = open_place(self.url).folder("checkpoints")
    names = step_names.all_names(saved)
    torn = {
      name for name, files in names.items() if step_names.COMMITTED not in files
    }
    self.counts["kills in a save"] += bool(torn - self.torn)
    self.torn = torn

  def stop(self, child: multiprocessing.Process) -> int | None:
    """Stops the run until another process has taken over, and continues it."""
    os.kill(child.pid, signal.SIGSTOP)
    self.counts["stops"] += 1
    other = self.start()
    time.sleep(LEASE_SECONDS * self.random.uniform(1.2, 2.5))
    os.kill(child.pid, signal.SIGCONT)
    code, later = self.wait(child), self.wait(other)
    self.counts[f"stopped, then {code}"] += 1
    # Whoever holds the lease goes on. The other one ends with an error.
    allowed = (0, LOST, REFUSED)
    if code not in allowed or later not in allowed:
      self.broken.append(f"run {self.runs}: stopped: {code}, other: {later}")
    print(dict(self.counts), file=sys.stderr, flush=True)
    return 0 if 0 in (code, later) else None

  def wait(self, child: multiprocessing.Process) -> int:
    child.join(_END_SECONDS)
    if child.exitcode is None:
      os.kill(child.pid, signal.SIGABRT)
      child.join()
    return child.exitcode

  def check(self) -> None:
    """Compares rows and arrays with those of an undisturbed run."""
    place = open_place(self.url)
    rows = [json.loads(x) for x in log.read(place, "metrics").splitlines()]
    found = [(row["step"], row["value"]) for row in rows]
    if found != [(step, float(step)) for step in range(1, self.steps + 1)]:
      self.broken.append(f"run {self.runs}: rows {[s for s, _ in found]}")
    events = [json.loads(x) for x in log.read(place, "events").splitlines()]
    starts = [e for e in events if e["event"] == "start"]
    self.counts["starts"] += len(starts)
    self.counts["damaged"] += sum(e["damaged"] for e in starts)
    saved = BucketCheckpoints(self.url, CheckpointSpec(keep=2, keep_best=0))
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape,
        x.dtype,
        sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]),
      ),
      state_at(0),
    )
    state = saved.restore(abstract, self.steps).state
    for name, value in state_at(self.steps).items():
      if not np.array_equal(state[name], value):
        self.broken.append(f"run {self.runs}: {name} differs")
    saved.close()


def main() -> None:
  """See the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--store", choices=("gs", "s3"), default="gs")
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--steps", type=int, default=120)
  parser.add_argument("--stops", type=float, default=0.1)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--faults", type=float, default=0.0)
  asked = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    with servers.running(asked.store, path) as server:
      endpoint = server.endpoint
      if asked.faults:
        proxy = Proxy(server.endpoint)
        proxy.damage(asked.faults, asked.seed)
        endpoint = proxy.endpoint
      os.environ.update(servers.environment(asked.store, endpoint))
      os.environ.update(JAX_PLATFORMS="cpu", GRPC_VERBOSITY="NONE")
      os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{path / 'programs'}"
      os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
      os.environ["TMPDIR"] = folder  # Of the stages of s3://.
      kills = Kills(asked.store, asked.seed, asked.stops, path / "errors")
      found = kills.run(asked.kills, asked.steps)
    if (path / "errors").exists():
      print((path / "errors").read_text()[-5000:], file=sys.stderr)
  print(json.dumps(found, indent=2))
  sys.exit(1 if found["broken"] else 0)


if __name__ == "__main__":
  main()
