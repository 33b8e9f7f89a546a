"""Builds the wheel of this checkout."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def build(folder: pathlib.Path) -> pathlib.Path:
  """Builds the wheel from a copy of the checkout, without a registry."""
  source = folder / "source"
  source.mkdir()
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  for name in ("bigscale", "configs"):
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
  command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
  command += ["--no-build-isolation", "--no-index", f"--wheel-dir={folder}"]
  subprocess.run([*command, str(source)], check=True)
  (built,) = folder.glob("*.whl")
  return built
