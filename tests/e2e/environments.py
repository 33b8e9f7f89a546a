"""Virtual environments with the wheel and its dependencies."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

# Variables of this process that must not leak into the environments.
_OURS = (
  "PYTHONPATH",
  "PYTHONHOME",
  "VIRTUAL_ENV",
  "XLA_FLAGS",
  "JAX_PLATFORMS",
)
# Long enough for an installation over a slow connection.
_SECONDS = 900


@dataclasses.dataclass(frozen=True)
class Environment:
  """A virtual environment made by `python -m venv`."""

  path: pathlib.Path

  @property
  def python(self) -> pathlib.Path:
    return self.path / "bin" / "python"

  @property
  def packages(self) -> pathlib.Path:
    (found,) = self.path.glob("lib/python*/site-packages")
    return found

  def run(self, folder: pathlib.Path, *words: Any) -> Any:
    """Runs Python in a folder, with only the system's folders in PATH."""
    environment = {k: v for k, v in os.environ.items() if k not in _OURS}
    environment["PATH"] = "/usr/bin:/bin"
    environment["BIGSCALE_CACHE"] = str(self.path / "cache")
    return subprocess.run(
      [str(self.python), *map(str, words)],
      cwd=folder,
      env=environment,
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      check=False,
    )

  def bigscale(self, folder: pathlib.Path, *words: Any) -> Any:
    return self.run(folder, "-m", "bigscale.cli.main", *words)


def done(process: Any) -> str:
  """Checks that a program succeeded and returns its output."""
  assert process.returncode == 0, process.stderr[-4000:]
  return process.stdout


def make(
  path: pathlib.Path, wanted: Sequence[str], base: Environment | None = None
) -> Environment:
  """Makes an environment and installs requirements.

  Args:
    path: path of the new environment.
    wanted: requirements in pip's format.
    base: environment whose packages are visible in the new one.
  """
  subprocess.run([sys.executable, "-m", "venv", str(path)], check=True)
  made = Environment(path)
  if base is not None:
    (made.packages / "base.pth").write_text(f"{base.packages}\n")
  done(made.run(path, "-m", "pip", "install", "--quiet", *wanted))
  return made


def resolve(wanted: Sequence[str]) -> dict[str, str]:
  """Returns the versions that pip would install, by package name."""
  with tempfile.TemporaryDirectory() as folder:
    report = pathlib.Path(folder) / "report.json"
    words = ["--dry-run", "--ignore-installed", "--quiet", f"--report={report}"]
    done(_pip("install", *words, *wanted))
    found = json.loads(report.read_text())["install"]
  return {
    each["metadata"]["name"].lower().replace("_", "-"): each["metadata"][
      "version"
    ]
    for each in found
  }


def registry_trouble() -> str:
  """Returns why no package registry can be reached, "" if one can."""
  words = ("--dry-run", "--no-deps", "--ignore-installed", "--quiet")
  asked = _pip("install", *words, "--retries=1", "--timeout=20", "absl-py")
  return asked.stderr.strip()[-300:] if asked.returncode else ""


def _pip(*words: str) -> Any:
  return subprocess.run(
    [sys.executable, "-m", "pip", *words],
    capture_output=True,
    text=True,
    timeout=_SECONDS,
    check=False,
  )
