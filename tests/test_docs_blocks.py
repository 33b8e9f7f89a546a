"""Every command and program of the documentation runs.

Blocks run in the order of the site's navigation, all in one temporary folder.
The first page trains a small run there, which the others use. A block after a
comment `<!-- not run: REASON -->` is left out.
"""

import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests import fast_compile
from tests.test_docs import DOCS, ROOT, name_of, navigation

TEXTS = (
  *(DOCS / page for page in navigation()),
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
)
_LANGUAGES = ("sh", "python")
_LIMIT = 1800.0


class Block(NamedTuple):
  """A block of code.

  Attributes:
    where: FILE:LINE of its first line.
    language: `sh` or `python`.
    code: its text.
    left_out: the reason not to run it, "" to run it.
  """

  where: str
  language: str
  code: str
  left_out: str


def blocks_of(path: pathlib.Path) -> list[Block]:
  """The blocks of a page in `sh` or `python`, in order."""
  found, reason = [], ""
  lines = iter(enumerate(path.read_text().splitlines(), 1))
  for number, line in lines:
    if marker := re.match(r"\s*<!-- not run: (.+) -->$", line):
      reason = marker[1]
    elif opened := re.match(r"(\s*)```(\w*)$", line):
      indent, language = opened.groups()
      code = []
      for _, inner in lines:
        if inner.strip() == "```":
          break
        code.append(inner.removeprefix(indent))
      if language in _LANGUAGES:
        where = f"{name_of(path)}:{number + 1}"
        found.append(Block(where, language, "\n".join(code) + "\n", reason))
      reason = ""
    elif line.strip():
      reason = ""
  return found


BLOCKS = [block for text in TEXTS for block in blocks_of(text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A checkout's folders in a temporary place, where nothing else is."""
  folder = tmp_path_factory.mktemp("docs")
  for name in ("configs", "docs", "launch", "notebooks", "tests"):
    (folder / name).symlink_to(ROOT / name)
  return folder


@pytest.fixture(scope="module")
def environment(folder):
  """Variables under which `bigscale` and `python` are those of the tests."""
  programs = folder / "bin"
  programs.mkdir()
  # A block may set PYTHONPATH.
  python = f'PYTHONPATH="$PYTHONPATH:{ROOT}" exec "{sys.executable}"'
  (programs / "python").write_text(f'#!/bin/sh\n{python} "$@"\n')
  (programs / "bigscale").write_text(
    f'#!/bin/sh\n{python} -m bigscale.cli.main "$@"\n'
  )
  for program in programs.iterdir():
    program.chmod(0o755)
  return os.environ | {
    "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
    "BIGSCALE_CACHE": str(folder / "cache"),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": fast_compile.FLAGS,
  }


def test_there_are_blocks_to_run():
  run = [block for block in BLOCKS if not block.left_out]
  assert len(run) > 20
  assert {block.language for block in run} == set(_LANGUAGES)


def test_a_reason_counts_for_the_next_block_alone(tmp_path, monkeypatch):
  monkeypatch.setattr("tests.test_docs.ROOT", tmp_path)
  page = tmp_path / "page.md"
  page.write_text(
    "<!-- not run: a pod -->\n```sh\na\n```\n\n    ```sh\n    b\n    ```\n"
  )
  assert blocks_of(page) == [
    Block("page.md:3", "sh", "a\n", "a pod"),
    Block("page.md:7", "sh", "b\n", ""),
  ]


@pytest.mark.slow
@pytest.mark.parametrize(
  "block", [b for b in BLOCKS if not b.left_out], ids=lambda block: block.where
)
def test_the_block_runs(block, folder, environment):
  if block.language == "sh":
    command = ["bash", "-euo", "pipefail", "-c", block.code]
  else:
    command = [sys.executable, "-c", block.code]
  # The TPU's compiler ends the process at a flag of CPUs.
  unset = {"XLA_FLAGS"} if "bigscale plan" in block.code else set()
  ended = subprocess.run(
    command,
    cwd=folder,
    env={k: v for k, v in environment.items() if k not in unset},
    capture_output=True,
    text=True,
    timeout=_LIMIT,
  )
  assert ended.returncode == 0, (
    f"{block.where} ends with {ended.returncode}:\n{ended.stdout[-2000:]}"
    f"\n{ended.stderr[-4000:]}"
  )
