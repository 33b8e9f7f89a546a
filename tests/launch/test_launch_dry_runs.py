"""Dry runs of the launchers: syntax, quoting, rejected values."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.launch.launching import (
  AWKWARD,
  HOSTS,
  LAUNCH,
  LAUNCHERS,
  ROOT,
  commands,
  environ,
  launch,
  option,
  recorded,
  recorder,
  write_env,
)

SCRIPTS = sorted(str(path.relative_to(ROOT)) for path in LAUNCH.rglob("*.sh"))
TRAIN = [
  *("bigscale", "train", "--config=a b.py:'c'", f"--workdir={AWKWARD[0]}"),
  "--local_processes=1",
]
TRAIN_IN_ENV = ["env", f"A={AWKWARD[3]}", "B=", *TRAIN, *AWKWARD]


@pytest.fixture
def awkward(tmp_path):
  return write_env(
    tmp_path / "an env 'file'",
    {
      "CONFIG": "a b.py:'c'",
      "WORKDIR": AWKWARD[0],
      "TRAIN_ARGS": AWKWARD,
      "RUN_ENV": [f"A={AWKWARD[3]}", "B="],
      "NUM_SLICES": "2",
    },
  )


def shown(script, env_file, *arguments):
  done = launch(script, f"--env={env_file}", *arguments)
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_it(script):
  subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
  assert "set -euo pipefail" in (ROOT / script).read_text() or script in (
    "launch/common.sh",
    "launch/jobset.sh",
  )


def test_shellcheck_finds_nothing(tmp_path):
  # pip installs it next to the interpreter, which may not be on the PATH.
  checker = pathlib.Path(sys.executable).with_name("shellcheck")
  assert checker.exists(), "shellcheck is missing; pip install 'bigscale[test]'"
  found = subprocess.run(
    [checker, "--external-sources", "--source-path=SCRIPTDIR", *SCRIPTS],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert found.returncode == 0, found.stdout
  # The checker finds errors.
  (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -r $1\n")
  assert subprocess.run(
    [checker, tmp_path / "bad.sh"], capture_output=True
  ).returncode


@pytest.mark.parametrize("script", LAUNCHERS)
def test_without_go_nothing_is_executed(script, tmp_path):
  record = tmp_path / "record"
  for tool in ("gcloud", "kubectl", "xpk", "sbatch", "scancel", "bigscale"):
    recorder(tmp_path / "bin" / tool, record)
  env = environ(tmp_path / "bin")
  done = launch(script, env=env)
  assert done.returncode == 0, done.stderr
  assert commands(done.stdout)
  done = launch(script, "--go", "--dry-run", env=env, cwd=tmp_path)
  assert done.returncode == 0
  assert recorded(record) == []
  assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("script", LAUNCHERS)
def test_help_is_the_header(script):
  done = launch(script, "--help")
  assert done.returncode == 0
  assert f"launch/{script} [--env=FILE]" in done.stdout
  assert "set -euo" not in done.stdout


def test_local_quotes(awkward):
  (command,) = commands(shown("local.sh", awkward))
  assert command[:2] == ["bash", str(HOSTS / "restart.sh")]
  wanted = [*TRAIN_IN_ENV, "--virtual_devices=1"]
  wanted[1:1] = ["JAX_PLATFORMS=cpu", "PJRT_NPROC=16"]
  wanted[wanted.index("--local_processes=1")] = "--local_processes=2"
  assert command[4:] == wanted


def test_slurm_quotes(awkward):
  submit = commands(shown("slurm.sh", awkward, "submit"))[-1]
  assert submit[0] == "sbatch"
  assert submit[-len(TRAIN_IN_ENV) :] == TRAIN_IN_ENV
  assert option(submit, "signal") == "TERM@300"
  assert "--requeue" in submit


def test_cloud_tpu_quotes_for_two_shells(awkward):
  run = commands(shown("cloud_tpu.sh", awkward, "run"))
  assert [command[5] for command in run] == ["run-1-0", "run-1-1"]
  for command in run:
    assert command[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]
    assert option(command, "worker") == "all"
    (remote,) = commands(option(command, "command"))
    assert remote == [
      *("bash", "bigscale-launch/host.sh", "start", "run-1"),
      *("bigscale", "100", "0"),
      *TRAIN_IN_ENV,
    ]


def test_create_requests_the_given_capacity(tmp_path):
  def created(**values):
    env_file = write_env(tmp_path / "e", values)
    (command,) = commands(shown("cloud_tpu.sh", env_file, "create"))
    assert command[:6] == [
      *("gcloud", "compute", "tpus", "queued-resources", "create", "run-1")
    ]
    return set(command[6:]) - {
      "--project=a-project",
      "--zone=us-central2-b",
      "--accelerator-type=v5litepod-16",
      "--runtime-version=v2-alpha-tpuv5-lite",
      "--async",
    }

  assert created() == {"--node-id=run-1", "--spot"}
  assert created(CAPACITY="reserved", NUM_SLICES="3") == {
    "--node-count=3",
    "--node-prefix=run-1",
    "--reserved",
  }
  assert created(CAPACITY="on-demand", QR_ARGS=["--labels=a=b c"]) == {
    "--node-id=run-1",
    "--labels=a=b c",
  }


def test_resume_recreates_the_resource(tmp_path):
  env_file = write_env(tmp_path / "e")
  done = [c[3:5] for c in commands(shown("cloud_tpu.sh", env_file, "resume"))]
  assert done[:4] == [
    ["queued-resources", verb] for verb in ("list", "delete", "create", "list")
  ]
  assert done[-1] == ["tpu-vm", "ssh"]


@pytest.mark.parametrize(
  ("script", "values", "words"),
  [
    ("local.sh", {"RUN_NAME": ""}, "RUN_NAME is not set"),
    ("local.sh", {"WORKDIR": "s3://b/r"}, "must be gs://BUCKET/NAME"),
    ("local.sh", {"RUN_NAME": "A b"}, "RUN_NAME=A b must be at most 40"),
    ("local.sh", {"RUN_NAME": "a" * 41}, "must be at most 40"),
    ("local.sh", {"CONFIG": ""}, "CONFIG is not set"),
    ("local.sh", {"NUM_PROCESSES": "0"}, "NUM_PROCESSES=0 must be at least 1"),
    ("local.sh", {"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1 must be a whole"),
    ("local.sh", {"MAX_RESTARTS": "a[$(id>&2)]"}, "must be a whole number"),
    ("local.sh", {"RUN_ENV": ["A B=1"]}, "RUN_ENV: A B=1 must be NAME=VALUE"),
    ("slurm.sh", {"TASKS_PER_NODE": "1"}, "one task per GPU"),
    ("cloud_tpu.sh", {"CAPACITY": "free"}, "CAPACITY=free must be one of: spo"),
    ("cloud_tpu.sh", {"ZONE": ""}, "ZONE is not set"),
    ("gke.sh", {"CAPACITY": "reserved"}, "RESERVATION is not set"),
    ("gke.sh", {"GKE_TOPOLOGY": "4x8"}, "has 32 chips, not PODS_PER_SLICE=4"),
    ("gke.sh", {"GKE_TOPOLOGY": "4*4"}, "must be like 4x4"),
    ("gke.sh", {"TRAIN_ARGS": ["a\nb"]}, "XPK does not allow line breaks"),
  ],
)
def test_bad_values_end_with_2(script, values, words, tmp_path):
  done = launch(script, f"--env={write_env(tmp_path / 'e', values)}")
  assert done.returncode == 2, done.stdout
  assert words in done.stderr
  assert "uid=" not in done.stderr


def test_bad_usage_ends_with_2(tmp_path):
  env_file = f"--env={write_env(tmp_path / 'e')}"
  for arguments, words in (
    (["--env=nowhere"], "no file nowhere"),
    ([env_file, "--fast"], "unknown option --fast"),
    ([env_file, "explode"], "unknown action explode; choose from: create"),
    ([env_file, "create", "run"], "two actions: create and run"),
    ([env_file, "--go"], "--go needs an action"),
  ):
    done = launch("cloud_tpu.sh", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
  done = launch("cloud_tpu.sh", env_file, env=environ(GO="yes"))
  assert done.returncode == 2
  assert "GO=yes must be 0 or 1" in done.stderr


@pytest.mark.parametrize("script", LAUNCHERS)
@pytest.mark.parametrize("how", ["--go", "GO=1"])
def test_placeholders_are_shown_but_never_used(script, how, tmp_path):
  record = tmp_path / "record"
  for tool in ("gcloud", "kubectl", "sbatch", "bigscale"):
    recorder(tmp_path / "bin" / tool, record)
  go = {"GO": "1"} if how == "GO=1" else {}
  arguments = [how] if how == "--go" else []
  for action in ("create", "submit", "run"):
    done = launch(
      script, *arguments, action, env=environ(tmp_path / "bin", **go)
    )
    assert done.returncode == 2
    assert "is a placeholder; set it in" in done.stderr
  assert recorded(record) == []


def test_gcloud_knows_the_flags(tmp_path):
  """gcloud itself checks the flags, which needs no account."""
  if not shutil.which("gcloud"):
    pytest.skip("gcloud is not installed")
  lines = []
  for values in (
    {},
    {"NUM_SLICES": "2", "CAPACITY": "reserved", "RESERVATION": "r"},
    {"CAPACITY": "on-demand"},
  ):
    env_file = write_env(tmp_path / "e", values)
    for script in ("cloud_tpu.sh", "gke.sh"):
      lines += shown(script, env_file).splitlines()
  # One command of each kind, because the linter takes a second for each.
  kinds = {
    tuple(word.partition("=")[0] for word in shlex.split(line)): line
    for line in lines
    if line.startswith("gcloud ")
  }
  lines = sorted(kinds.values())
  assert len(lines) > 8
  # An unknown flag, and a flag of another release track.
  wrong = [f"{lines[0]} --typo", f"{lines[-1]} --best-effort"]
  listed = tmp_path / "commands.json"
  listed.write_text(
    json.dumps([{"command_string": line} for line in [*lines, *wrong]])
  )
  done = subprocess.run(
    ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={listed}"],
    env=os.environ
    | {
      "CLOUDSDK_CONFIG": str(tmp_path / "config"),
      "CLOUDSDK_CORE_CHECK_GCE_METADATA": "false",
      "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    },
    capture_output=True,
    text=True,
    timeout=120,
  )
  answers = json.loads(done.stdout)
  assert [a["command_string"] for a in answers] == [*lines, *wrong]
  refused = {
    a["command_string"]: a["error_message"] for a in answers if not a["success"]
  }
  assert set(refused) == set(wrong), refused
