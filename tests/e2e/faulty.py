"""A tiny run of several processes, with a fault in one of them.

faulty.py WORKDIR FAULT PROCESS STEP: the fault occurs when the process reads
the batch of that step. A lasting fault occurs at all later steps too.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
from ml_collections import ConfigDict

from tests.e2e import tiny


def get_config() -> ConfigDict:
  """24 steps; a process may hang for 6 seconds."""
  config = tiny.get_config()
  config.mesh = {"data": -1}
  config.log.tensorboard = False
  config.log.samples_kimg = 0.0
  config.operations = {"hang_seconds": 6.0, "pause_factor": 50.0}
  return config


def _raise() -> None:
  raise ValueError("a bug of one process")


def _bad_input() -> None:
  from bigscale.spec import SpecError

  raise SpecError("a file of one process is gone")


def _no_room() -> None:
  raise OSError(28, "No space left on device")


def _fill_disk() -> None:
  """Fills the file system of the folder, except for a few pages."""
  workdir = pathlib.Path(sys.argv[-1].partition("=")[2])
  with (workdir / FILLER).open("wb", buffering=0) as file:
    with contextlib.suppress(OSError):
      while file.write(bytes(2**16)):
        pass
    file.truncate(file.tell() - 2**16)


def _stop() -> None:
  """Stops until process 0 has exited, at most a minute; is then killed."""
  workdir = pathlib.Path(sys.argv[-1].partition("=")[2])
  first = (workdir / "pid").read_text()
  watcher = (
    f"for turn in $(seq 120); do kill -0 {first} 2>/dev/null || break; "
    f"sleep 0.5; done; echo $turn > {workdir}/waited; kill -9 {os.getpid()}"
  )
  subprocess.Popen(["bash", "-c", watcher])
  os.kill(os.getpid(), signal.SIGSTOP)


def _terminate() -> None:
  """Sends SIGTERM, then slows down the steps so that the run does not end."""
  if _terminated:
    time.sleep(1)
  else:
    _terminated.append(True)
    os.kill(os.getpid(), signal.SIGTERM)


_terminated: list[bool] = []
FILLER = "filler"
# Faults that last from their step to the end.
LASTING = ("slow", "terminate")
FAULTS = {
  "none": lambda: None,
  "raise": _raise,
  "bad_input": _bad_input,
  "disk_full": _no_room,
  "disk_fills_up": _fill_disk,
  "stop": _stop,
  "slow": lambda: time.sleep(3),
  "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
  "terminate": _terminate,
  "hang": lambda: time.sleep(600),
}


def main() -> None:
  """Trains with the real program, because its exit codes are tested."""
  from bigscale.cli import main as program
  from bigscale.train import loop

  workdir, fault, process, at = sys.argv[1:]
  next_batch = loop._Run._next_batch

  def next_batch_or_fault(self: loop._Run, step: int) -> object:
    if jax.process_index() == 0 and step == 1:
      pathlib.Path(workdir, "pid").write_text(str(os.getpid()))
    due = step == int(at) or (fault in LASTING and step > int(at))
    if due and jax.process_index() == int(process):
      FAULTS[fault]()
    return next_batch(self, step)

  loop._Run._next_batch = next_batch_or_fault
  sys.argv = [
    "bigscale",
    "train",
    f"--config={__file__}",
    f"--workdir={workdir}",
  ]
  program.entry_point()


if __name__ == "__main__":
  main()
