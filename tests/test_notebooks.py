"""Every notebook runs from top to bottom."""

import asyncio
import pathlib
import warnings

import nbformat
import pytest
from nbclient import NotebookClient

from tests.fast_compile import FLAGS

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# By notebook: settings that make it short, and its number of figures.
SHORT = {
  # With fewer than 480 steps, the fault does not always ruin the run. That is
  # too many for programs that compile fast and run slowly.
  "collapse": ({"COLLAPSE_STEPS": "600"}, 4),
  "scaling_law": ({"LAW_RESAMPLES": "40"}, 12),
  "quickstart": ({"QUICKSTART_STEPS": "6", "XLA_FLAGS": FLAGS}, 3),
}
LONG = ("collapse", "quickstart")
# Notebooks saved with the outputs of a long run.
SHOWN = ("collapse", "quickstart", "scaling_law")


def _pictures(notebook):
  return [
    output
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if "image/png" in output.get("data", {})
  ]


def _notebooks():
  """Returns all notebooks; those that train for minutes are slow."""
  for path in NOTEBOOKS:
    marks = pytest.mark.slow if path.stem in LONG else ()
    yield pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", list(_notebooks()))
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own plumbing
def test_notebook_runs(path, tmp_path, monkeypatch):
  settings, pictures = SHORT[path.stem]
  for name, value in settings.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:
    if cell.cell_type == "code":
      cell.outputs = []
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    client = NotebookClient(
      notebook, timeout=900, resources={"metadata": {"path": str(ROOT)}}
    )
    asyncio.run(client.async_execute())
  assert len(_pictures(notebook)) == pictures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_the_package(path):
  """So that a notebook starts on a bare hosted machine."""
  cells = nbformat.read(path, as_version=4).cells
  first = next(cell.source for cell in cells if cell.cell_type == "code")
  assert '"pip", "install"' in first
  assert 'find_spec("bigscale") is None' in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_outputs_cleared(path):
  for cell in nbformat.read(path, as_version=4).cells:
    if cell.cell_type == "code":
      assert len(cell.source.splitlines()) <= 25
      assert path.stem in SHOWN or not cell.outputs


@pytest.mark.parametrize("name", SHOWN)
def test_saved_outputs_show_a_full_run_without_machine_paths(name):
  path = ROOT / "notebooks" / f"{name}.ipynb"
  notebook = nbformat.read(path, as_version=4)
  assert len(_pictures(notebook)) == SHORT[name][1]
  assert path.stat().st_size < 600_000
  counts = []
  for cell in notebook.cells:
    if cell.cell_type != "code":
      continue
    counts.append(cell.execution_count)
    for output in cell.outputs:
      assert output.output_type != "error"
      assert output.get("name") != "stderr"
      assert str(pathlib.Path.home()) not in str(output)
      assert "/tmp" not in str(output)
  assert counts == list(range(1, len(counts) + 1))
