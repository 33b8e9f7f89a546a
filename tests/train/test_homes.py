"""The address of a run's home never becomes a local path."""

import re

import pytest

from bigscale.place.paths import path_of
from bigscale.report import ReportError, write_report
from bigscale.spec import SpecError
from bigscale.train import folder as folders
from bigscale.train.checkpoint import CheckpointReader
from bigscale.train.writers import JsonLines
from tests.test_house import PACKAGE, modules, name_of

# Packages and modules that read or write the homes of runs.
HOMES = re.compile(r"train/.*|report/.*|scaling/.*|monitor/trace|sampling/.*")
# Modules that make a `pathlib.Path` of something other than a home, or of one
# that is known to be on a disk.
ALLOWED = {
  "train/home": "a temporary folder",
  "train/lease": "/proc",
  "train/managers": "a disk, in the other branch than buckets",
  "train/mount": "a disk, after a check",
  "train/profiler": "a temporary folder",
  "train/programs": "/proc",
  "train/staged_steps": "a stage on a disk",
  "train/steps": "DiskSteps",
  "scaling/rows": "a table",
}


def test_homes_do_not_pass_through_pathlib():
  found = {
    name_of(path)
    for path in modules()
    if HOMES.fullmatch(name_of(path))
    and re.search(r"pathlib\.Path\(", path.read_text())
  }
  assert found == set(ALLOWED), "use bigscale.place, or say why not"


def test_no_module_makes_a_path_of_a_workdir():
  for path in PACKAGE.rglob("*.py"):
    text = path.read_text()
    if name_of(path) != "train/mount":
      assert not re.search(r"pathlib\.Path\((workdir|run_dir)", text), path


@pytest.mark.parametrize(
  "use",
  [
    folders.open_existing,
    CheckpointReader,
    JsonLines,
    path_of,
    write_report,
  ],
)
def test_an_address_that_pathlib_has_shortened_is_refused(
  use, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises((SpecError, ReportError), match="is an address"):
    use("gs:/bucket/run")
  assert list(tmp_path.iterdir()) == []
