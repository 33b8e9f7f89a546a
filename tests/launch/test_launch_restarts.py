"""Scripts on the machines, with programs that end with given codes."""

import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.launching import (
  AWKWARD,
  HOSTS,
  LAUNCH,
  commands,
  environ,
  kubernetes_reads,
  launch,
  option,
  program,
  recorded,
  recorder,
  write_env,
)


def ending(folder: pathlib.Path, codes: list[int]) -> pathlib.Path:
  """Writes a program whose nth start ends with the nth code."""
  (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
  return program(
    folder / "bin" / "bigscale",
    f"""
cd '{folder}'
echo >>starts
exit "$(sed -n "$(wc -l <starts)p" codes)"
""",
  )


def waiting(folder: pathlib.Path, at_sigterm: str) -> pathlib.Path:
  """Writes a program that waits for SIGTERM."""
  return program(
    folder / "bin" / "bigscale",
    f"""
cd '{folder}'
trap 'echo >>terms; {at_sigterm}' TERM
echo >>starts
for _ in {{1..4000}}; do sleep 0.02; done
""",
  )


def lines(path: pathlib.Path) -> int:
  return len(path.read_text().splitlines()) if path.exists() else 0


def until(condition, seconds=20):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, "it never came"
    time.sleep(0.02)


def restart(*arguments, **options):
  command = ["bash", str(HOSTS / "restart.sh"), *map(str, arguments)]
  # A background shell ignores SIGINT, and its child processes inherit that.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    return subprocess.Popen(
      command, env=environ(), stderr=subprocess.PIPE, text=True, **options
    )
  finally:
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
  ("codes", "starts"),
  [
    ([0], 1),
    ([75, 0], 2),
    ([75, 76, 75, 0], 4),
    ([76, 1], 2),
    *(([code], 1) for code in (1, 2, 3, 42, 74, 77, 134, 143, 255)),
    # Three restarts are allowed.
    ([75, 76, 75, 76, 0], 4),
  ],
)
def test_only_75_and_76_are_restarted(codes, starts, tmp_path):
  done = restart(
    f"--state={tmp_path}", 3, 0, ending(tmp_path, codes), "--an=argument"
  )
  said = done.communicate(timeout=30)[1]
  assert done.returncode == codes[starts - 1]
  assert lines(tmp_path / "starts") == starts
  assert said.count("restart.sh: code") == starts - 1 + (starts < len(codes))
  assert (tmp_path / "code").read_text() == f"{codes[starts - 1]}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [75, 0, 7])
def test_sigterm_reaches_the_program_whose_code_is_kept(number, code, tmp_path):
  # The program needs time to end and receives the signal twice.
  running = restart(3, 0, waiting(tmp_path, f"sleep 0.3; exit {code}"))
  until(lambda: lines(tmp_path / "starts") == 1)
  running.send_signal(number)
  until(lambda: lines(tmp_path / "terms") == 1)
  running.send_signal(number)
  running.communicate(timeout=30)
  assert running.returncode == code
  assert lines(tmp_path / "starts") == 1


def test_sigterm_between_two_starts_ends_the_delay(tmp_path):
  running = restart(3, 60, ending(tmp_path, [76, 0]))
  until(lambda: lines(tmp_path / "starts") == 1)
  assert "in 60 s" in running.stderr.readline()
  running.terminate()
  running.communicate(timeout=30)
  assert running.returncode == 76
  assert lines(tmp_path / "starts") == 1


def test_a_program_that_is_killed(tmp_path):
  killed = program(tmp_path / "bin" / "bigscale", "kill -KILL $$")
  done = restart(3, 0, killed)
  done.communicate(timeout=30)
  assert done.returncode == 128 + signal.SIGKILL


def test_local_restarts_all_processes(tmp_path):
  record = tmp_path / "record"
  env_file = write_env(
    tmp_path / "e",
    {
      "PROGRAM": str(ending(tmp_path, [75, 76, 3])),
      "NUM_PROCESSES": "3",
      "DEVICES_PER_PROCESS": "12",
      "RUN_ENV": ["A=b c"],
    },
  )
  recorder(tmp_path / "bin" / "env", record, then='exec /usr/bin/env "$@"')
  env = environ(tmp_path / "bin")
  done = launch("local.sh", f"--env={env_file}", "--go", env=env)
  assert done.returncode == 3, done.stderr
  assert lines(tmp_path / "starts") == 3
  calls = [call for call in recorded(record) if "train" in call]
  # With fewer than twice as many threads as devices, collectives deadlock.
  assert calls[0][1:4] == ["JAX_PLATFORMS=cpu", "PJRT_NPROC=24", "A=b c"]
  assert calls[0][-2:] == ["--local_processes=3", "--virtual_devices=12"]
  assert calls == calls[:1] * 3


def test_sigterm_passes_through_local(tmp_path):
  values = {"PROGRAM": str(waiting(tmp_path, "exit 75"))}
  env_file = write_env(tmp_path / "e", values)
  running = subprocess.Popen(
    ["bash", LAUNCH / "local.sh", f"--env={env_file}", "--go"], env=environ()
  )
  until(lambda: lines(tmp_path / "starts") == 1)
  running.terminate()
  assert running.wait(30) == 75
  assert lines(tmp_path / "terms") == 1


# --- XPK


def in_xpk(tmp_path, bigscale, **values):
  """Runs a command in the container command of XPK 1.16."""
  values |= {"PROGRAM": str(bigscale), "IMAGE_CODE_DIR": str(tmp_path)}
  env_file = write_env(tmp_path / "e", values)
  done = launch("gke.sh", f"--env={env_file}", "xpk-create")
  (create,) = commands(done.stdout)
  command = kubernetes_reads(option(create, "command"))
  script = f"""
_sigterm() (kill -SIGTERM $! 2>/dev/null;);
trap _sigterm SIGTERM;
({command}) & PID=$!;
while kill -0 $PID 2>/dev/null;
    do sleep 0.1;
done;
wait $PID;
EXIT_CODE=$?;
exit $EXIT_CODE
"""
  return subprocess.Popen(["bash", "-c", script], env=environ())


def test_xpk_only_restarts_75_and_76(tmp_path):
  codes = {0: 0, 1: 1, 2: 2, 3: 3, 41: 41, 42: 1, 43: 43, 75: 42, 76: 42}
  codes |= {126: 126, 127: 1, 130: 1, 134: 1, 199: 1, 200: 1, 255: 1}
  bigscale = program(tmp_path / "bin" / "bigscale", f"exit $(<'{tmp_path}/c')")
  told = {}
  for code in codes:
    (tmp_path / "c").write_text(str(code))
    told[code] = in_xpk(tmp_path, bigscale).wait(30)
  assert told == codes


def test_awkward_values_pass_through_xpk(tmp_path):
  record = tmp_path / "record"
  recorder(tmp_path / "bigscale", record, then=f"echo \"$A\" >'{tmp_path}/A'")
  run_env = [f"A={AWKWARD[3]}"]
  running = in_xpk(
    tmp_path, tmp_path / "bigscale", TRAIN_ARGS=AWKWARD, RUN_ENV=run_env
  )
  assert running.wait(30) == 0
  (call,) = recorded(record)
  assert call[-len(AWKWARD) :] == list(AWKWARD)
  assert (tmp_path / "A").read_text() == f"{AWKWARD[3]}\n"


def test_sigterm_passes_through_xpk(tmp_path):
  running = in_xpk(tmp_path, waiting(tmp_path, "sleep 0.3; exit 75"))
  until(lambda: lines(tmp_path / "starts") == 1)
  running.terminate()
  assert running.wait(30) == 42
  assert lines(tmp_path / "terms") == 1


# --- SLURM


@pytest.mark.parametrize(
  ("code", "restarts", "queued"),
  [
    (75, None, True),
    (76, "2", True),
    (75, "3", False),
    (0, None, False),
    (1, None, False),
    (2, None, False),
    (3, None, False),
    (143, None, False),
  ],
)
def test_slurm_only_requeues_after_75_and_76(code, restarts, queued, tmp_path):
  record = tmp_path / "record"
  recorder(tmp_path / "bin" / "srun", record, then=f"exit {code}")
  recorder(tmp_path / "bin" / "scontrol", record)
  env = environ(tmp_path / "bin", SLURM_JOB_ID="7")
  if restarts is not None:
    env["SLURM_RESTART_COUNT"] = restarts
  done = subprocess.run(
    ["bash", HOSTS / "slurm_job.sh", "3", "60", "bigscale", "a b"],
    env=env,
    capture_output=True,
    timeout=30,
  )
  assert done.returncode == code
  started, *then = recorded(record)
  assert started == [
    *("srun", "--kill-on-bad-exit=0", "--wait=60", "bigscale", "a b")
  ]
  assert then == ([["scontrol", "requeue", "7"]] if queued else [])


def test_a_cancelled_job_is_not_requeued(tmp_path):
  record = tmp_path / "record"
  program(
    tmp_path / "bin" / "srun", f"cd '{tmp_path}'; touch up; sleep 1; exit 75"
  )
  recorder(tmp_path / "bin" / "scontrol", record)
  running = subprocess.Popen(
    ["bash", HOSTS / "slurm_job.sh", "3", "60", "bigscale"],
    env=environ(tmp_path / "bin", SLURM_JOB_ID="7"),
    stderr=subprocess.DEVNULL,
  )
  until((tmp_path / "up").exists)
  running.terminate()
  assert running.wait(30) == 75
  assert recorded(record) == []


def test_a_real_slurm_requeues_the_job(tmp_path):
  """Runs only where SLURM is installed."""
  if (
    not shutil.which("sbatch")
    or subprocess.run(["sinfo"], capture_output=True).returncode
  ):
    pytest.skip("there is no SLURM cluster here")
  values = {
    "PROGRAM": str(ending(tmp_path, [75, 0])),
    "LOG_DIR": str(tmp_path / "logs"),
    "RUN_NAME": "bigscale-launch-test",
    "TIME_LIMIT": "10",
    **{name: "1" for name in ("NODES", "TASKS_PER_NODE", "CPUS_PER_TASK")},
    "GPUS_PER_NODE": "0",
    "GRACE_SECONDS": "60",
  }
  env_file = write_env(tmp_path / "e", values)
  done = launch("slurm.sh", f"--env={env_file}", "--go", "submit")
  assert done.returncode == 0, done.stderr
  # SLURM may take two minutes to restart a job.
  until(lambda: lines(tmp_path / "starts") == 2, seconds=300)
  log = (tmp_path / "logs" / "bigscale-launch-test.log").read_text()
  assert "code 75; restart 1 of 100" in log
