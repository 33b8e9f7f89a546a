"""Runs the launchers with fake programs that record how they were called."""

import os
import pathlib
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).parent.parent.parent
LAUNCH = ROOT / "launch"
HOSTS = LAUNCH / "hosts"
LAUNCHERS = ("cloud_tpu.sh", "gke.sh", "slurm.sh", "local.sh")

# Values that a shell, YAML, Kubernetes and printf could each misread.
AWKWARD = (
  "/b/a b\"c'd$HOME$(x)`y`\\z",
  "",
  "~/#no comment; {braces} %s * & | > <",
  "$(POD_IP) $$(POD_IP) $$$ ${HOME}",
  "tab\there, é, two\\nlines",
)
# Replaces the placeholders of the example.
FILLED = {
  "RUN_NAME": "run-1",
  "PROJECT": "a-project",
  "ZONE": "us-central2-b",
  "LOCATION": "us-central2",
  "CLUSTER": "a-cluster",
  "IMAGE": "us-docker.pkg.dev/p/r/i:1",
  "WORKDIR": "/mnt/share/runs/1",
  "SETUP_COMMAND": "true",
  "POLL_SECONDS": "0",
  "RESTART_DELAY": "0",
}


def write_env(
  path: pathlib.Path, values: Mapping[str, str | Sequence[str]] | None = None
) -> pathlib.Path:
  """Writes the example's env file with these values; sequences are arrays."""
  lines = [(LAUNCH / "example.env").read_text()]
  for name, value in (FILLED | dict(values or {})).items():
    if isinstance(value, str):
      lines.append(f"{name}={shlex.quote(value)}")
    else:
      lines.append(f"{name}=({' '.join(map(shlex.quote, value))})")
  path.write_text("\n".join(lines) + "\n")
  return path


def program(path: pathlib.Path, text: str) -> pathlib.Path:
  """Writes an executable bash script."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"#!/usr/bin/env bash\n{text}\n")
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return path


def recorder(path: pathlib.Path, record: pathlib.Path, then: str = "") -> None:
  """Writes a program that appends its arguments to `record`."""
  name = shlex.quote(path.name)
  to = shlex.quote(str(record))
  program(path, f"printf '%s\\0' {name} \"$@\" $'\\n' >>{to}\n{then}")


def recorded(record: pathlib.Path) -> list[list[str]]:
  """Returns the recorded calls, each with the program's name first."""
  if not record.exists():
    return []
  calls = record.read_text().split("\0\n\0")
  return [call.split("\0") for call in calls[:-1]]


def environ(bin_dir: pathlib.Path | None = None, **more: str) -> dict[str, str]:
  """Returns this environment without variables that affect the launchers."""
  env = {
    name: value
    for name, value in os.environ.items()
    if name == "SLURM_CONF"
    or (
      not name.startswith(("SLURM_", "BIGSCALE_", "SBATCH_"))
      and name not in ("GO", "PJRT_NPROC")
    )
  }
  if bin_dir is not None:
    env["PATH"] = f"{bin_dir}:{env['PATH']}"
  return env | more


def launch(
  script: str,
  *arguments: str,
  env: Mapping[str, str] | None = None,
  cwd: pathlib.Path = ROOT,
) -> subprocess.CompletedProcess[str]:
  """Runs a launcher and waits for its end."""
  return subprocess.run(
    ["bash", str(LAUNCH / script), *arguments],
    env=environ() if env is None else dict(env),
    cwd=cwd,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=60,
  )


def commands(shown: str) -> list[list[str]]:
  """Parses the commands of a dry run as a shell does."""
  found, pending = [], ""
  for line in shown.splitlines(keepends=True):
    if not pending and line.startswith("# "):
      continue
    pending += line
    try:
      words = shlex.split(pending)
    except ValueError:
      # A quoted value continues on the next line.
      continue
    found.append(words)
    pending = ""
  assert not pending, f"a quote is never closed: {pending}"
  return found


def option(command: Sequence[str], name: str) -> str:
  """Returns the value of --name=VALUE."""
  values = [
    word.partition("=")[2] for word in command if word.startswith(f"--{name}=")
  ]
  assert len(values) == 1, f"--{name} in {command}"
  return values[0]


def kubernetes_reads(text: str) -> str:
  """Expands $(NAME) for known names and $$, as Kubernetes does."""
  known = {"POD_IP": "REPLACED"}
  out, at = "", 0
  while at < len(text):
    rest = text[at:]
    if rest.startswith("$$"):
      out, at = out + "$", at + 2
    elif rest.startswith("$(") and ")" in rest:
      name = rest[2 : rest.index(")")]
      out += known.get(name, f"$({name})")
      at += len(name) + 3
    else:
      out, at = out + text[at], at + 1
  return out
