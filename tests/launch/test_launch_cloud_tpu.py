"""Runs launch/cloud_tpu.sh with --go on fake machines, which are folders."""

import pathlib
import shlex
import time

import pytest

from tests.launch.launching import (
  AWKWARD,
  environ,
  launch,
  program,
  recorded,
  recorder,
  write_env,
)

# A machine is $FAKE/NODE-WORKER, and each slice has two. ssh runs the command
# in a login shell there, like sshd.
GCLOUD = """
options=() words=()
for word in "$@"; do
  case $word in
    --command=*) command=${word#--command=} ;;
    --worker=*) worker=${word#--worker=} ;;
    --*) options+=("$word") ;;
    *) words+=("$word") ;;
  esac
done
workers=${worker-}
if [[ $workers == all ]]; then workers='0 1'; fi
verb=${words[3]}
case ${words[2]} in
  queued-resources)
    case $verb in
      list)
        # Others of the zone; one that failed has no state any more.
        state=$(head -n 1 "$FAKE/states")
        printf 'run-11\tFAILED\n'
        case $state in
          GONE) ;;
          ERROR) code=1 ;;
          *) printf 'run-1\t%s\n' "$state" ;;
        esac
        # The last one stays.
        if (($(wc -l <"$FAKE/states") > 1)); then sed -i 1d "$FAKE/states"; fi
        exit "${code-0}"
        ;;
      delete) rm -rf "$FAKE"/run-1* ;;
    esac
    ;;
  tpu-vm)
    for w in $workers; do
      if [[ $verb == scp ]]; then
        to=${words[-1]}
        cp "${words[@]:4:${#words[@]}-5}" "$FAKE/${to%%:*}-$w/${to#*:}"
      else
        mkdir -p "$FAKE/${words[4]}-$w"
        cd "$FAKE/${words[4]}-$w"
        HOME=$PWD sh -c "$command" || exit
      fi
    done
    ;;
esac
"""
SETUP = "mkdir -p 'the code' && cp {bigscale} 'the code/a program'"


class Cloud:
  """A fake Cloud TPU, which is a folder."""

  def __init__(self, folder: pathlib.Path, at_start: str, **values: object):
    self.folder = folder
    self.record = folder / "record"
    recorder(folder / "bin" / "gcloud", self.record, then=GCLOUD)
    bigscale = program(
      folder / "bigscale",
      f'printf \'%s\\0\' "$PWD" "A=${{A-}}" "$@" >"$HOME/arguments"\n'
      f'echo >>"$HOME/starts"\n{at_start}',
    )
    self.values = {
      "PROGRAM": "./a program",
      "HOST_CODE_DIR": "the code",
      "SETUP_COMMAND": SETUP.format(bigscale=shlex.quote(str(bigscale))),
      "GRACE_SECONDS": "20",
      **values,
    }
    self.states("ACTIVE")

  def states(self, *states: str) -> None:
    (self.folder / "states").write_text("".join(f"{s}\n" for s in states))

  def __call__(self, action: str):
    env_file = write_env(self.folder / "e", self.values)
    env = environ(self.folder / "bin", FAKE=str(self.folder))
    return launch("cloud_tpu.sh", f"--env={env_file}", "--go", action, env=env)

  def do(self, action: str) -> str:
    done = self(action)
    assert done.returncode == 0, done.stderr
    return done.stdout

  def starts(self, machine: str) -> int:
    path = self.folder / machine / "starts"
    return len(path.read_text().splitlines()) if path.exists() else 0

  def until_ended(self) -> str:
    for _ in range(400):
      said = self.do("status")
      if "is running:" not in said:
        return said
      time.sleep(0.05)
    raise AssertionError(said)


# Limited, because nothing stops these programs if a test fails.
WAITS = "trap 'sleep 0.2; exit 75' TERM; for _ in {1..2000}; do sleep .04; done"
MACHINES = ("run-1-0-0", "run-1-0-1", "run-1-1-0", "run-1-1-1")


def test_every_machine_gets_the_exact_arguments(tmp_path):
  cloud = Cloud(
    tmp_path,
    "exit 0",
    NUM_SLICES="2",
    TRAIN_ARGS=AWKWARD,
    RUN_ENV=[f"A={AWKWARD[0]}"],
  )
  cloud.do("setup")
  assert cloud.do("run").count("started") == 4
  assert cloud.until_ended().count("last exit code: 0") == 4
  for machine in MACHINES:
    home = tmp_path / machine
    arguments = (home / "arguments").read_text().split("\0")[:-1]
    assert arguments == [
      *(f"{home}/the code", f"A={AWKWARD[0]}"),
      *("train", "--config=configs/biggan_imagenet128.py"),
      *("--workdir=/mnt/share/runs/1", "--local_processes=1", *AWKWARD),
    ]


def test_a_run_from_start_to_stop(tmp_path):
  cloud = Cloud(tmp_path, f"echo step 1; {WAITS}")
  cloud.do("setup")
  cloud.do("run")
  for _ in range(200):
    if cloud.do("status").count("is running: step 1") == 2:
      break
  # A second `run` fails, and `resume` does nothing.
  again = cloud("run")
  assert (again.returncode, again.stdout.count("already running")) == (2, 1)
  assert cloud.do("resume").count("already running") == 2
  assert cloud.do("stop").count("ended with 75") == 2
  assert cloud.do("stop").count("is not running") == 2
  # Only `resume` starts it again.
  assert [cloud.starts(f"run-1-{w}") for w in (0, 1)] == [1, 1]
  assert cloud.do("resume").count("started") == 2
  assert cloud.do("stop").count("ended with 75") == 2
  assert [cloud.starts(f"run-1-{w}") for w in (0, 1)] == [2, 2]


def test_after_a_preemption_everything_is_recreated(tmp_path):
  cloud = Cloud(tmp_path, "exit 0")
  cloud.do("setup")
  cloud.do("run")
  cloud.until_ended()
  # `resume` leaves an ended run alone. Only `run` starts it again.
  assert cloud.do("resume").count("ended with 0; use run") == 2
  assert cloud.starts("run-1-0") == 1
  cloud.record.unlink()
  cloud.states("SUSPENDED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
  assert cloud.do("resume").count("started") == 2
  cloud.until_ended()
  assert cloud.starts("run-1-0") == 1
  calls = [call[4] for call in recorded(cloud.record)]
  assert calls[:6] == [*("list", "delete", "create", "list", "list", "list")]
  assert calls[6:10] == ["ssh", "scp", "ssh", "ssh"]


def test_resume_creates_a_missing_resource(tmp_path):
  cloud = Cloud(tmp_path, "exit 0")
  cloud.states("DELETING", "GONE", "PROVISIONING", "ACTIVE")
  assert cloud.do("resume").count("started") == 2
  calls = [call[4] for call in recorded(cloud.record)]
  assert calls[:5] == ["list", "list", "create", "list", "list"]


def test_waiting_survives_temporary_gcloud_failures(tmp_path):
  cloud = Cloud(tmp_path, "exit 0")
  cloud.states("PROVISIONING", "ERROR", "ERROR", "PROVISIONING", "ACTIVE")
  cloud.do("wait")
  assert len(recorded(cloud.record)) == 5
  cloud.states("ERROR")
  done = cloud("wait")
  assert done.returncode == 1
  assert "gcloud failed 5 times" in done.stderr


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED", "DELETING", "GONE"])
def test_waiting_ends_if_the_resource_will_never_be_active(state, tmp_path):
  cloud = Cloud(tmp_path, "exit 0")
  cloud.states("WAITING_FOR_RESOURCES", state)
  done = cloud("wait")
  assert done.returncode == 1
  assert f"run-1 is {state}; try resume" in done.stderr


def test_a_failure_on_a_machine_is_a_failure_of_the_script(tmp_path):
  cloud = Cloud(tmp_path, "exit 0", NUM_SLICES="2", SETUP_COMMAND="false; true")
  assert cloud("setup").returncode == 1
