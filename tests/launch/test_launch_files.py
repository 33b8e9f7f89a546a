"""Tests of the container file and of SkyPilot's file."""

import re
import shlex
import shutil
import subprocess

import pytest

from bigscale.cli import train
from tests.launch.launching import LAUNCH, ROOT

DOCKERFILE = LAUNCH / "Dockerfile"


def test_the_image_has_what_the_package_needs():
  """Copied files exist, and the ignore file does not exclude them."""
  allowed = {
    line[1:]
    for line in (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    if line.startswith("!")
  }
  copied = re.findall(r"^COPY (.*) \S+$", DOCKERFILE.read_text(), re.M)
  sources = [source for words in copied for source in words.split()]
  assert "setup.py" in sources
  for source in sources:
    assert (ROOT / source).exists(), source
    assert source == "." or source.split("/")[0] in allowed, source
  # setup.py reads these, and bigscale/configs is a link to configs/.
  assert {"README.md", "bigscale", "configs"} <= allowed


def test_the_python_of_the_image_is_supported():
  version = re.search(
    r"^FROM python:(\d+)\.(\d+)-", DOCKERFILE.read_text(), re.M
  )
  needed = re.search(
    r'python_requires=">=3\.(\d+)"', (ROOT / "setup.py").read_text()
  )
  assert version[1] == "3"
  assert int(version[2]) >= int(needed[1])


@pytest.mark.skipif(
  shutil.which("hadolint") is None, reason="hadolint is not installed"
)
def test_hadolint_accepts_the_image():
  subprocess.run(["hadolint", str(DOCKERFILE)], check=True)


@pytest.fixture
def sky():
  yaml = pytest.importorskip("yaml")
  return yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


def test_skypilot_restarts_as_the_other_launchers_do(sky):
  recovery = sky["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == [75, 76]
  assert recovery["max_restarts_on_errors"] == 0


def test_skypilot_runs_a_command_that_exists(sky):
  words = shlex.split(sky["run"].replace("\\\n", " "))
  assert words[:3] == ["exec", ".venv/bin/bigscale", "train"]
  flags = dict(word.removeprefix("--").split("=") for word in words[3:])
  assert set(flags) <= set(train.FLAGS.names()) | {"config"}
  used = {value[1:] for value in flags.values() if value.startswith("$")}
  assert used == set(sky["envs"])
  for part in ("setup", "run"):
    subprocess.run(["bash", "-n"], input=sky[part], text=True, check=True)
