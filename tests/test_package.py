"""The wheel: its files, size and requirements."""

import email
import importlib.metadata
import re
import zipfile

import pytest
from packaging.requirements import Requirement

from tests import wheels

ROOT = wheels.ROOT
# Libraries that may break between minor versions.
BOUNDED = ("jax", "flax", "optax", "orbax-checkpoint", "grain")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  return wheels.build(tmp_path_factory.mktemp("wheel"))


def requirements(wheel):
  with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
  return metadata, [Requirement(r) for r in metadata.get_all("Requires-Dist")]


def test_the_wheel_contains_every_file_of_the_package(wheel):
  names = ("bigscale", "configs")
  expected = {
    str(path.relative_to(ROOT))
    for name in names
    for path in (ROOT / name).rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }
  expected = {
    f"bigscale/{path}" if path.startswith("configs/") else path
    for path in expected
  }
  with zipfile.ZipFile(wheel) as archive:
    held = {n for n in archive.namelist() if ".dist-info/" not in n}
  assert held == expected
  assert "bigscale/configs/fashion_r3gan.py" in held
  assert any(name.endswith(".array_record") for name in held)


def test_the_wheel_is_small(wheel):
  assert wheel.stat().st_size < 10e6


def test_requirements_allow_the_installed_versions(wheel):
  """All other tests run with the installed versions."""
  _, found = requirements(wheel)
  here = [r for r in found if not r.marker or r.marker.evaluate({"extra": ""})]
  assert {*BOUNDED, "numpy", "ml-collections"} <= {r.name for r in here}
  for requirement in here:
    version = importlib.metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True), (
      f"{requirement} does not allow the installed version {version}"
    )


def test_requirements_exclude_untested_versions(wheel):
  _, found = requirements(wheel)
  specifiers = {r.name: r.specifier for r in found if not r.marker}
  for name in BOUNDED:
    operators = {s.operator for s in specifiers[name]}
    assert operators == {">=", "<"}, f"{name}{specifiers[name]}"
    major = importlib.metadata.version(name).split(".")[0]
    assert not specifiers[name].contains(f"{int(major) + 1}.0.0")


def test_the_readme_mentions_every_extra(wheel):
  """The first screen of the README mentions each extra except `test`."""
  metadata, _ = requirements(wheel)
  extras = set(metadata.get_all("Provides-Extra"))
  assert {"tpu", "cuda", "tpu-plan", "torch", "tensorboard"} <= extras
  text = (ROOT / "README.md").read_text()
  screen = text[: text.index("\n## ")]
  for extra in extras - {"test"}:
    told = re.search(rf"[`\[]{extra}[`\]]", screen)
    assert told, f"the README does not mention {extra}"
