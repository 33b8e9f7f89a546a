"""Compares a simulated run with a real run that is killed again and again.

    python -m tests.benchmarks.goodput_kills OUT [KILLS]

The real run trains on this machine. Each step sleeps, so that the machine's
load hardly changes its time. SIGKILL strikes at random times, also during
starts and saves. The simulation meets the same kills at the same times. Its
constants are means of the real run's events.
"""

import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time
from typing import Any

from bigscale.plan.goodput.simulate import Outcome, simulate
from bigscale.plan.goodput.system import Fault, System, Tier
from bigscale.report.goodput import goodput

STEP_SECONDS = 0.5
STEPS = 1000
STEPS_BETWEEN_SAVES = 40
MEAN_SECONDS = 100.0
SEED = 7


def train(workdir: str) -> None:
  """Trains the run, or resumes it."""
  from bigscale.parallel.environment import prepare_cpu

  prepare_cpu()
  from bigscale.spec import from_config
  from bigscale.train import loop
  from bigscale.train.disturb import Disturbance
  from bigscale.train.prepared import Prepared
  from tests.e2e import tiny

  class Slow(Disturbance):
    def state(self, step: int, attempt: int, state: Any) -> Any:
      time.sleep(STEP_SECONDS)
      return state

  config = tiny.smallest()
  config.total_kimg = STEPS * 8 / 1000
  config.checkpoint.kimg = STEPS_BETWEEN_SAVES * 8 / 1000
  config.log.samples_kimg = 0.0
  config.log.tensorboard = False
  config.monitor = {"action": "off"}
  loop.train(
    from_config(config), workdir, prepared=Prepared(disturbance=Slow())
  )


def kill_often(
  workdir: pathlib.Path, kills: int
) -> tuple[list[float], list[float]]:
  """Runs and kills; returns the times of the starts and of the kills."""
  stream, starts, times = random.Random(SEED), [], []
  while True:
    command = [sys.executable, "-m", "tests.benchmarks.goodput_kills"]
    starts.append(time.time())
    child = subprocess.Popen([*command, "--train", str(workdir)])
    last = len(times) >= kills
    wait = None if last else stream.expovariate(1 / MEAN_SECONDS)
    try:
      if child.wait(wait) == 0 or last:
        return starts, times
    except subprocess.TimeoutExpired:
      pass
    child.kill()
    child.wait()
    times.append(time.time())


def events_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the run's events."""
  lines = (workdir / "events.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def predict(
  events: list[dict[str, Any]], starts: list[float], times: list[float]
) -> Outcome:
  """Simulates the run with means of its own events."""
  ready = [e["time"] for e in events if e["event"] == "start"]
  started = [one - max(s for s in starts if s < one) for one in ready]
  phases: dict[str, list[float]] = {}
  steps = before = 0
  for event in events:
    if event["event"] == "start":
      before = event["step"]
    elif event["event"] == "times":
      steps += event["step"] - before
      before = event["step"]
      for name, seconds in event["seconds"].items():
        phases.setdefault(name, []).append(seconds)
  step = (sum(phases["step"]) + sum(phases["data"])) / steps
  times = [one - starts[0] for one in times]
  store = Tier(
    name="store",
    interval=STEPS_BETWEEN_SAVES * step,
    blocking=statistics.mean(phases["checkpoint"]),
  )
  kill = Fault(name="kill", rate=1 / MEAN_SECONDS)
  system = System(
    faults=(kill,),
    tiers=(store,),
    # Includes the imports and the restore.
    start=statistics.mean(started),
    compile=statistics.mean(phases["compile"]),
  )
  print(system)
  return simulate(system, work=STEPS * step, times={"kill": times})


def main() -> None:
  """Runs the comparison and prints it."""
  if sys.argv[1] == "--train":
    return train(sys.argv[2])
  workdir = pathlib.Path(sys.argv[1])
  kills = int(sys.argv[2]) if len(sys.argv) > 2 else 8
  began = time.time()
  starts, times = kill_often(workdir, kills)
  whole = time.time() - began
  events = events_of(workdir)
  real = goodput(events)
  found = predict(events, starts, times)
  print("real", json.dumps(real))
  print("simulated", json.dumps(dict(found.seconds)))
  print(f"kills {len(times)}")
  print(f"real goodput {real['step'] / whole:.3f} of {whole:.0f} s")
  print(f"simulated    {found.goodput:.3f} of {found.total:.0f} s")


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  main()
