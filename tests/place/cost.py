r"""Counts the requests of a run on a bucket, and measures how it is delayed.

  python -m tests.place.cost --minutes=5
  python -m tests.place.cost --minutes=5 --store=s3

First, a run writes one row a minute and is saved once: prints the requests a
minute without a save, and those of a save, as a proxy sees them. Then, a run
writes a row at each step, with and without 200 ms added to each request: prints
the ratio of the times of its steps, without those that save.
"""

import argparse
import collections
import json
import logging
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp

from bigscale.place import prepare, requests
from bigscale.spec import CheckpointSpec, from_config
from bigscale.train import folder as folders
from bigscale.train.bucket_checkpoint import BucketCheckpoints
from bigscale.train.lease import Lease
from bigscale.train.recorder import Recorder
from tests.e2e import tiny
from tests.place import servers
from tests.place.kills import NoMeter, state_at
from tests.place.proxy import Proxy

# Seconds between the saves of the second run.
_EVERY = 5.0


class Run:
  """The files of a run on a bucket."""

  def __init__(self, home: str) -> None:
    config = tiny.smallest()
    config.log.tensorboard = False
    self.claim = Lease(120.0)
    spec = from_config(config)
    folder = folders.create(home, spec, ["cost"], self.claim)
    self.checkpoints = BucketCheckpoints(
      folder.path, CheckpointSpec(keep=3, keep_best=0), claim=self.claim
    )
    self.recorder = Recorder(folder, spec, 0, meter=NoMeter())
    self.checkpoints.attend(self.recorder, 600.0)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    self.state = jax.device_put(state_at(0), where)

  def save(self, step: int) -> None:
    self.checkpoints.save(step, self.state, {"next": step}, {})

  def close(self) -> None:
    self.recorder.close()
    self.checkpoints.close()
    self.claim.release()


def rare(proxy: Proxy, bucket: str, minutes: float) -> dict[str, Any]:
  """Counts the requests of a run that writes one row a minute."""
  run = Run(f"{bucket}/rare")
  for step in range(1, 5):  # The fourth save deletes a step.
    run.save(step)
    run.checkpoints.wait()
  run.recorder.flush()
  seen, counted = len(proxy.seen), requests().total()
  until = time.monotonic() + 60 * minutes
  step = 4
  while time.monotonic() < until:
    step += 1
    run.recorder.row(step, {"value": 1.0})
    run.recorder.times(step, {"step": 60.0})
    time.sleep(60)
  between = proxy.seen[seen:]
  counted = requests().total() - counted
  seen = len(proxy.seen)
  run.save(step)
  run.checkpoints.wait()
  save = collections.Counter(method for method, _ in proxy.seen[seen:])
  run.close()
  a_minute = len(between) / minutes
  return {
    "requests_a_minute": round(a_minute, 2),
    "as_the_run_counts": round(counted / minutes, 2),
    "requests_a_save": dict(save),
    "a_minute_with_a_save_an_hour": round(a_minute + save.total() / 60, 2),
  }


def step_times(home: str, steps: int) -> list[float]:
  """Returns the seconds of the steps of a run that do not save."""
  run = Run(home)
  work = jax.jit(lambda x: jnp.tanh(x @ x))
  x = work(jnp.eye(600)).block_until_ready()
  times, saved = [], time.monotonic()
  for step in range(1, steps + 1):
    started = time.perf_counter()
    run.recorder.check()
    x = work(x).block_until_ready()
    run.recorder.row(step, {"value": 1.0})
    times.append(time.perf_counter() - started)
    if time.monotonic() - saved > _EVERY:
      run.save(step)
      saved = time.monotonic()
  run.close()
  return times


def delayed(proxy: Proxy, bucket: str, steps: int) -> dict[str, Any]:
  """Compares the times of steps with and without delayed requests."""
  found: dict[float, list[float]] = {0.0: [], 0.2: []}
  for number in range(6):  # In turn, because the machine is shared.
    proxy.delay = delay = (0.0, 0.2)[number % 2]
    found[delay] += step_times(f"{bucket}/delayed{number}", steps)
    proxy.delay = 0.0
  medians = {delay: statistics.median(x) for delay, x in found.items()}
  return {
    "steps": {f"{delay}": len(x) for delay, x in found.items()},
    "median_ms": {f"{k}": round(1e3 * x, 3) for k, x in medians.items()},
    "ratio": round(medians[0.2] / medians[0.0], 3),
  }


def main() -> None:
  """See the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--minutes", type=float, default=5.0)
  parser.add_argument("--steps", type=int, default=1000)
  parser.add_argument("--store", choices=("gs", "s3"), default="gs")
  asked = parser.parse_args()
  bucket = f"{asked.store}://{servers.BUCKET}"
  logging.getLogger("google.auth").setLevel(logging.ERROR)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder)
    with servers.running(asked.store, path) as server:
      proxy = Proxy(server.endpoint)
      os.environ.update(servers.environment(asked.store, proxy.endpoint))
      prepare()
      found = {
        "rare": rare(proxy, bucket, asked.minutes),
        "delayed": delayed(proxy, bucket, asked.steps),
      }
  print(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()
