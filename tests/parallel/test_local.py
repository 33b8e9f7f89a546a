"""The supervisor of local processes: exit codes, signals, output prefixes."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from bigscale.parallel.local import one_code, run_locally

ENVIRON = {"PATH": os.environ["PATH"]}


def program(text):
  return [sys.executable, "-c", textwrap.dedent(text)]


@pytest.mark.parametrize(
  ("codes", "one"),
  [
    ([0, 0], 0),
    ([0, 2], 2),
    # One process failed and the other was aborted: a restart would fail again.
    ([1, 134], 1),
    ([-6, 1, -9], 1),
    ([3, 76], 3),
    # One process was killed, and the other was aborted because of it.
    ([-9, -6], 76),
    ([137, 134], 76),
    ([0, -9], 76),
    ([75, 75], 75),
    ([75, -9], 76),
    ([0, 75], 75),
    ([130, 130], 130),
    ([0, 5], 5),
  ],
)
def test_exit_codes_are_combined(codes, one):
  assert one_code(codes) == one


def test_processes_get_their_variables_and_lines_are_prefixed(capfd):
  code, _ = run_locally(
    program(
      """
      import os, sys
      print(os.environ["BIGSCALE_PROCESS_ID"], "of",
            os.environ["BIGSCALE_NUM_PROCESSES"])
      print(os.environ["BIGSCALE_COORDINATOR"], file=sys.stderr)
      """
    ),
    3,
    ENVIRON,
  )
  out, err = capfd.readouterr()
  assert code == 0
  assert sorted(out.splitlines()) == [f"[{n}] {n} of 3" for n in range(3)]
  places = {line.split("] ")[1] for line in err.splitlines()}
  assert len(places) == 1
  assert places.pop().startswith("127.0.0.1:")


def test_one_process_only_gets_its_supervisor(capfd):
  code, _ = run_locally(
    program("import os; print([k for k in os.environ if 'BIGSCALE' in k])"),
    1,
    ENVIRON,
  )
  assert (code, capfd.readouterr().out) == (0, "['BIGSCALE_SUPERVISOR']\n")


def test_the_other_processes_are_ended_after_a_failure():
  started = time.monotonic()
  code, _ = run_locally(
    program(
      """
      import os, sys, time
      if os.environ["BIGSCALE_PROCESS_ID"] == "1":
        sys.exit(2)
      time.sleep(60)
      """
    ),
    2,
    ENVIRON,
    grace_seconds=0.5,
  )
  assert code == 2
  assert time.monotonic() - started < 30


def supervised(processes, folder):
  """Starts a supervisor whose processes write a file at start and SIGTERM."""
  child = textwrap.dedent(
    f"""
    import os, pathlib, signal, sys, time
    from bigscale.parallel.local import heed_supervisor
    name = os.environ.get("BIGSCALE_PROCESS_ID", "0")
    here = pathlib.Path({str(folder)!r})
    def told(*_):
      (here / f"told{{name}}").touch()
      sys.exit(75)
    signal.signal(signal.SIGTERM, told)
    heed_supervisor()
    (here / f"begun{{name}}").touch()
    time.sleep(60)
    """
  )
  supervisor = subprocess.Popen(
    program(
      f"""
      import sys
      from bigscale.parallel.local import run_locally
      sys.exit(run_locally([sys.executable, "-c", {child!r}], {processes})[0])
      """
    )
  )
  wait_for(folder, "begun*", processes)
  return supervisor


def wait_for(folder, files, count):
  until = time.monotonic() + 30
  while len(list(folder.glob(files))) < count:
    assert time.monotonic() < until
    time.sleep(0.05)


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_reaches_all_and_their_code_is_kept(processes, tmp_path):
  supervisor = supervised(processes, tmp_path)
  supervisor.send_signal(signal.SIGTERM)
  assert supervisor.wait(timeout=20) == 75
  wait_for(tmp_path, "told*", processes)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_end_when_the_supervisor_is_killed(processes, tmp_path):
  supervisor = supervised(processes, tmp_path)
  supervisor.kill()
  assert supervisor.wait(timeout=20) == -signal.SIGKILL
  wait_for(tmp_path, "told*", processes)


def test_a_process_ends_if_the_supervisor_died_before(monkeypatch):
  monkeypatch.setenv("BIGSCALE_SUPERVISOR", "1")
  child = "from bigscale.parallel.local import heed_supervisor as h; h(); 1 / 0"
  ended = subprocess.run(program(child), capture_output=True)
  assert ended.returncode == -signal.SIGTERM
