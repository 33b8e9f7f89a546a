r"""Kills a training run hundreds of times and compares it with another run.

  python -m tests.e2e.soak --out=DIR --lives=200
  python -m tests.e2e.soak --out=DIR --lives=40 --processes=2
  python -m tests.e2e.soak --out=DIR --lives=40 --bucket

The run is restarted again and again. Each start ends at a random time, during
startup, steps or a save, by SIGKILL, by SIGTERM, or by SIGTERM and 50 ms later
SIGKILL. With several processes, a random one gets the signal. At the end, state
and losses must be bitwise equal to those of an undisturbed run. Each start must
resume from the newest checkpoint that was committed before. With --bucket, the
killed run is on a server of gs:// on this machine, the undisturbed run on
a disk. Prints JSON. The exit code is 1 if a rule is violated.
"""

import argparse
import collections
import contextlib
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any

from bigscale.place import Place, log, open_place
from bigscale.train import lives, step_names
from tests.e2e import tiny
from tests.place import servers

COMMAND = "from bigscale.cli.main import entry_point; entry_point()"
WAYS = {
  "SIGKILL": (signal.SIGKILL,),
  "SIGTERM": (signal.SIGTERM,),
  "SIGTERM, SIGKILL": (signal.SIGTERM, signal.SIGKILL),
}
# Allowed exit codes, by number of processes (2 means several, with the code of
# their supervisor) and signals. A signal may arrive before its handler is
# installed, or after the last step.
CODES = {
  (1, "SIGKILL"): {-signal.SIGKILL},
  (1, "SIGTERM"): {75, -signal.SIGTERM, 0},
  (1, "SIGTERM, SIGKILL"): {75, -signal.SIGTERM, -signal.SIGKILL, 0},
  (2, "SIGKILL"): {76},
  (2, "SIGTERM"): {75, 76, 0},
  (2, "SIGTERM, SIGKILL"): {75, 76, 0},
}
_BETWEEN_SECONDS = 0.05
_START_SECONDS = 120.0
# Fraction of starts that are killed during startup.
_EARLY = 0.2


class Soak:
  """One run that is killed and restarted many times."""

  def __init__(
    self,
    out: pathlib.Path,
    steps: int,
    processes: int,
    seed: int,
    killed: str = "",
  ) -> None:
    self.out, self.steps, self.processes = out, steps, processes
    self.homes = {
      "alone": f"{out / 'alone'}",
      "killed": killed or f"{out / 'killed'}",
    }
    self.random = random.Random(seed)
    self.broken: list[str] = []
    self.ways: collections.Counter[str] = collections.Counter()
    self.codes: collections.Counter[str] = collections.Counter()
    self.lost: list[int] = []
    self.starts = 0

  def start(self, name: str) -> subprocess.Popen:
    """Starts or resumes the run of that name."""
    command = [
      *(sys.executable, "-c", COMMAND, "train"),
      f"--config={tiny.__file__}",
      f"--workdir={self.homes[name]}",
      f"--config.total_kimg={self.steps * 8 / 1000}",
      "--config.log.steps=1",
      "--config.log.samples_kimg=0.0",
      "--config.evaluate.num_samples=100",
    ]
    if self.processes > 1:
      command += [
        f"--local_processes={self.processes}",
        "--config.mesh.data=-1",
      ]
    environ = {
      **os.environ,
      "BIGSCALE_CACHE": str(self.out / "cache"),
      "JAX_COMPILATION_CACHE_DIR": str(self.out / "programs"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
      "BIGSCALE_HEARTBEAT_TIMEOUT": "10",
    }
    # The run would stop after three kills; reset its count.
    open_place(self.homes[name]).delete(lives.FILE)
    with (self.out / f"{name}.log").open("ab") as log:
      return subprocess.Popen(command, env=environ, stdout=log, stderr=log)

  def live(self) -> bool:
    """Starts and kills the run once; returns whether it finished instead."""
    folder = open_place(self.homes["killed"])
    before, begun = committed(folder), last_step(folder)
    way = self.random.choice(list(WAYS))
    child = self.start("killed")
    started = time.monotonic()
    if self.random.random() < _EARLY and begun:
      time.sleep(self.random.uniform(0, 10))
    else:
      self.wait_for_steps(child, folder, begun)
      time.sleep(self.random.uniform(0, 0.5))
    target = self.random.choice(members(child.pid, self.processes))
    for number, what in enumerate(WAYS[way]):
      if number:
        time.sleep(_BETWEEN_SECONDS)
      try:
        os.kill(target, what)
      except ProcessLookupError:
        break
    code = child.wait(timeout=_START_SECONDS)
    self.ways[way] += 1
    self.codes[f"{way}: {code}"] += 1
    self.check(folder, way, code, before, time.monotonic() - started)
    return code == 0

  def wait_for_steps(
    self, child: subprocess.Popen, folder: Place, begun: int
  ) -> None:
    """Waits until the run has reached a new step, or has ended."""
    limit = time.monotonic() + _START_SECONDS
    while child.poll() is None and last_step(folder) <= begun:
      if time.monotonic() > limit:
        raise TimeoutError(f"no step in {_START_SECONDS} s; see killed.log")
      time.sleep(0.02)

  def check(
    self,
    folder: Place,
    way: str,
    code: int,
    before: int,
    seconds: float,
  ) -> None:
    """Checks the rules after one start and its kill."""
    life = f"life {sum(self.ways.values())} ({way}, {seconds:.1f} s)"
    if code not in CODES[min(self.processes, 2), way]:
      self.broken.append(f"{life} ended with {code}")
    starts = [e["step"] for e in events(folder) if e["event"] == "start"]
    after, reached = committed(folder), last_step(folder)
    if after < before:
      self.broken.append(f"{life}: checkpoint {before} is gone")
    if len(starts) > self.starts:
      self.starts = len(starts)
      if starts[-1] != before:
        self.broken.append(f"{life} began at {starts[-1]}, not at {before}")
    if code == 75 and after < reached:
      self.broken.append(f"{life} saved {after} of {reached} steps")
    if code != 0:
      self.lost.append(max(0, reached - after))

  def run(self, lives: int, minutes: float = math.inf) -> dict[str, Any]:
    """Runs the test and returns a summary.

    Args:
      lives: number of starts that are killed.
      minutes: time after which the run is not killed any more.
    """
    began = time.monotonic()
    alone = self.start("alone")
    if alone.wait() != 0:
      raise RuntimeError(
        f"the undisturbed run failed; see {self.out}/alone.log"
      )
    undisturbed_seconds = time.monotonic() - began
    for _ in range(lives):
      if time.monotonic() - began > 60 * minutes or self.live():
        break
    code = self.start("killed").wait()
    if code != 0:
      self.broken.append(f"the last life ended with {code}")
    one, other = map(open_place, self.homes.values())
    if fingerprints(one, self.steps) != fingerprints(other, self.steps):
      self.broken.append("the final states differ")
    if losses(one) != losses(other):
      self.broken.append("the losses differ")
    return {
      "steps": self.steps,
      "processes": self.processes,
      "lives": sum(self.ways.values()),
      "ways": dict(self.ways),
      "codes": dict(sorted(self.codes.items())),
      "steps_lost": {
        "total": sum(self.lost),
        "most": max(self.lost, default=0),
        "lives_without_loss": self.lost.count(0),
      },
      "final_state_equal": "the final states differ" not in self.broken,
      "losses_equal": "the losses differ" not in self.broken,
      "broken": self.broken,
      "undisturbed_seconds": round(undisturbed_seconds),
      "seconds": round(time.monotonic() - began),
    }


def members(pid: int, processes: int) -> list[int]:
  """Returns the ids of the run's processes."""
  if processes == 1:
    return [pid]
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  children = [int(child) for child in path.read_text().split()]
  return children or [pid]


def committed(folder: Place) -> int:
  """Returns the step of the newest checkpoint, 0 if there is none."""
  return max(step_names.complete(folder.folder("checkpoints")), default=0)


def lines(folder: Place, name: str) -> list[dict[str, Any]]:
  """Returns the complete lines of a log that may be truncated."""
  found = []
  for line in (log.read(folder, name) or b"").splitlines():
    try:
      found.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return found


def events(folder: Place) -> list[dict[str, Any]]:
  return lines(folder, "events")


def last_step(folder: Place) -> int:
  """Returns the last step that is logged or saved, 0 if there is none."""
  logged = max((row["step"] for row in lines(folder, "metrics")), default=0)
  return max(logged, committed(folder))


def fingerprints(folder: Place, step: int) -> Any:
  """Returns the fingerprints of all arrays of a checkpoint."""
  name = step_names.complete(folder.folder("checkpoints"))[step]
  return json.loads(folder.read(f"checkpoints/{name}/meta/metadata"))[
    "fingerprints"
  ]


def losses(folder: Place) -> list[dict[str, Any]]:
  """Returns the rows without times."""
  return [
    {
      name: value
      for name, value in row.items()
      if name != "seconds" and not name.startswith("perf/")
    }
    for row in lines(folder, "metrics")
  ]


def main() -> None:
  """See the module's docstring."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--lives", type=int, default=200)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument(
    "--steps", type=int, default=0, help="0 means 12 per life"
  )
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument(
    "--minutes",
    type=float,
    default=math.inf,
    help="do not kill after this time",
  )
  parser.add_argument("--bucket", action="store_true")
  asked = parser.parse_args()
  asked.out.mkdir(parents=True, exist_ok=True)
  steps = asked.steps or 12 * asked.lives
  with contextlib.ExitStack() as stack:
    home = ""
    if asked.bucket:
      server = stack.enter_context(servers.running("gs", asked.out))
      os.environ.update(servers.environment("gs", server.endpoint))
      home = f"gs://{servers.BUCKET}/killed"
    soak = Soak(asked.out, steps, asked.processes, asked.seed, home)
    found = soak.run(asked.lives, asked.minutes)
  print(json.dumps(found, indent=2))
  sys.exit(1 if found["broken"] else 0)


if __name__ == "__main__":
  main()
