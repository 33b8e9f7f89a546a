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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore")  # of Jupyter's own plumbing
def test_notebook_runs(path, tmp_path, monkeypatch):
  monkeypatch.setenv("QUICKSTART_STEPS", "6")
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
  monkeypatch.setenv("XLA_FLAGS", FLAGS)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  notebook = nbformat.read(path, as_version=4)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    client = NotebookClient(
      notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
    )
    asyncio.run(client.async_execute())
  shown = [
    output
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if "image/png" in output.get("data", {})
  ]
  assert len(shown) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_no_logic_and_no_outputs(path):
  for cell in nbformat.read(path, as_version=4).cells:
    if cell.cell_type == "code":
      assert len(cell.source.splitlines()) <= 25
      assert not cell.outputs
