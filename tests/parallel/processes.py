"""Starts real JAX processes on this machine, connected over loopback."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent.parent
_TAIL = 3000


class Finished(NamedTuple):
  """Exit code and output of a process."""

  code: int | None
  stdout: str
  stderr: str


def free_port() -> int:
  """Returns a port that was free a moment ago."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


def run_processes(
  program: Sequence[str],
  num_processes: int,
  devices_per_process: int,
  *,
  timeout: float,
  environ: Mapping[str, str] | None = None,
  each: Sequence[Mapping[str, str]] | None = None,
  check: bool = True,
) -> list[Finished]:
  """Runs a program in several processes.

  Args:
    program: arguments after `python`, the same for all processes.
    num_processes: number of processes; passed in BIGSCALE_* variables.
    devices_per_process: number of virtual CPU devices of each process.
    timeout: maximum seconds, after which all processes are killed.
    environ: variables of all processes. An empty value removes a variable.
    each: additional variables of each process.
    check: whether all processes must end with code 0.

  Returns:
    The result of each process in order; code None for killed processes.
  """
  port = free_port()
  with tempfile.TemporaryDirectory() as folder:
    started = []
    for index in range(num_processes):
      wanted = {}
      if num_processes > 1:
        wanted = {
          "BIGSCALE_COORDINATOR": f"127.0.0.1:{port}",
          "BIGSCALE_NUM_PROCESSES": str(num_processes),
          "BIGSCALE_PROCESS_ID": str(index),
        }
      wanted |= dict(environ or {}) | dict(each[index] if each else {})
      env = _environ(devices_per_process, wanted)
      paths = [pathlib.Path(folder, f"{index}.{kind}") for kind in ("o", "e")]
      with paths[0].open("wb") as out, paths[1].open("wb") as err:
        started.append(
          subprocess.Popen(
            [sys.executable, *program],
            env={name: value for name, value in env.items() if value},
            cwd=ROOT,
            stdout=out,
            stderr=err,
          )
        )
    codes = _wait(started, time.monotonic() + timeout)
    finished = [
      Finished(
        code,
        pathlib.Path(folder, f"{index}.o").read_text(),
        pathlib.Path(folder, f"{index}.e").read_text(),
      )
      for index, code in enumerate(codes)
    ]
  if check:
    assert all(code == 0 for code in codes), _failure(finished, timeout)
  return finished


def _environ(devices: int, wanted: Mapping[str, str]) -> dict[str, str]:
  """Returns this process's variables and `wanted`, with `devices` devices."""
  environ = dict(os.environ) | {
    "JAX_PLATFORMS": "cpu",
    "PJRT_NPROC": "16",
    "PYTHONPATH": str(ROOT),
    # A process whose peer has died must not wait for long.
    "BIGSCALE_START_TIMEOUT": "60",
  }
  environ |= wanted
  flags = [
    flag
    for flag in environ.get("XLA_FLAGS", "").split()
    # Remove the flags of the test suite.
    if "device_count" not in flag and "collective_timeout" not in flag
  ]
  flags += [
    f"--xla_force_host_platform_device_count={devices}",
    "--xla_cpu_collective_timeout_seconds=180",
  ]
  return environ | {"XLA_FLAGS": " ".join(flags)}


def _wait(
  started: Sequence[subprocess.Popen], until: float
) -> list[int | None]:
  """Returns exit codes; None for processes that had to be killed."""
  codes = []
  for process in started:
    try:
      codes.append(process.wait(max(0.0, until - time.monotonic())))
    except subprocess.TimeoutExpired:
      codes.append(None)
  for process in started:
    if process.poll() is None:
      process.kill()
      process.wait()
  return codes


def _failure(finished: Sequence[Finished], timeout: float) -> str:
  lines = [f"not all processes ended well within {timeout} s:"]
  for index, (code, stdout, stderr) in enumerate(finished):
    lines.append(f"--- process {index}: code {code}; stdout, stderr end in")
    lines += [stdout[-_TAIL // 3 :], stderr[-_TAIL:]]
  return "\n".join(lines)
