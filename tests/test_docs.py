"""The documentation: links, navigation, generated pages, and the site."""

import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = (
  *PAGES,
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
  ROOT / "launch" / "README.md",
)
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
# A file of the repository that a text names in `code`.
_NAMED = re.compile(
  r"`((?:bigscale|configs|docs|launch|notebooks|tests)/[\w./-]*\w\.\w+)`"
)


def name_of(path):
  return path.relative_to(ROOT).as_posix()


def prose(path):
  """Yields (line number, line) of everything outside code blocks."""
  inside = False
  for number, line in enumerate(path.read_text().splitlines(), 1):
    if line.lstrip().startswith("```"):
      inside = not inside
    elif not inside:
      yield number, line


def anchors(path):
  """The anchors of a page, as Python-Markdown and GitHub name them."""
  found = set()
  for _, line in prose(path):
    if heading := re.match(r"#+ (.*)", line):
      plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading[1])
      words = re.sub(r"[^\w\s-]", "", plain).strip().lower()
      found.add(re.sub(r"[-\s]+", "-", words))
  return found


def broken_links(path):
  """Yields `FILE:LINE: reason` for each link that leads nowhere."""
  text = "\n".join(line for _, line in prose(path))
  numbers = [number for number, _ in prose(path)]
  for found in re.finditer(r"\]\(([^)\s]+)\)", text):
    link = found[1]
    if re.match(r"https?:", link):
      continue
    line = numbers[text.count("\n", 0, found.start())]
    where = f"{name_of(path)}:{line}: {link}"
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    if not target.exists():
      yield f"{where}: there is no such file"
    elif path in PAGES and not target.is_relative_to(DOCS):
      yield f"{where}: leads out of docs/, where the site ends"
    elif anchor and anchor not in anchors(target):
      yield f"{where}: {name_of(target)} has no such heading"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_somewhere(path):
  broken = list(broken_links(path))
  assert not broken, "\n".join(broken)


def test_a_broken_link_is_named_with_its_line(tmp_path, monkeypatch):
  monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
  page = tmp_path / "page.md"
  page.write_text("# A title\n\n[here](#a-title)\n[there](#gone) [x](no.md)\n")
  assert list(broken_links(page)) == [
    "page.md:4: #gone: page.md has no such heading",
    "page.md:4: no.md: there is no such file",
  ]


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_files_that_are_named_exist(path):
  missing = [
    f"{name_of(path)}:{number}: there is no {named}"
    for number, line in enumerate(path.read_text().splitlines(), 1)
    for named in _NAMED.findall(line)
    if not (ROOT / named).exists()
  ]
  assert not missing, "\n".join(missing)


def test_pages_that_code_names_exist():
  missing = []
  for folder in ("bigscale", "configs", "launch", "notebooks", "tests"):
    for path in (ROOT / folder).rglob("*"):
      if path.suffix not in (".py", ".sh", ".env", ".ipynb", ".md"):
        continue
      for number, line in enumerate(path.read_text().splitlines(), 1):
        for named in re.findall(r"\bdocs/[\w/-]+\.md\b", line):
          if not (ROOT / named).exists():
            missing.append(f"{name_of(path)}:{number}: there is no {named}")
  assert not missing, "\n".join(missing)


def in_navigation(entry):
  """Yields the pages of a part of mkdocs' nav, in order."""
  if isinstance(entry, str):
    yield entry
    return
  for part in entry.values() if isinstance(entry, dict) else entry:
    yield from in_navigation(part)


def navigation():
  settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
  return list(in_navigation(settings["nav"]))


def test_the_navigation_has_every_page_once():
  pages = [path.relative_to(DOCS).as_posix() for path in PAGES]
  assert sorted(navigation()) == pages


@pytest.mark.parametrize("path", HOW_TO, ids=name_of)
def test_a_how_to_page_begins_with_a_command_and_ends_with_faults(path):
  text = path.read_text()
  begun = text.partition("```")[0]
  assert "```sh\n" in text
  assert "<!-- not run" not in begun, "the first command must run"
  assert begun.count("\n## ") <= 1, "the first command comes first"
  assert re.findall(r"\n## (.*)", text)[-1] == "What can go wrong"


@pytest.mark.parametrize(
  ("script", "remedy"),
  [
    ("make_reference", "python -m docs.make_reference"),
    ("make_drills", "python -m docs.make_drills"),
    ("make_goodput", "python -m docs.make_goodput"),
    ("draw_packages", "python -m docs.draw_packages"),
  ],
)
def test_generated_pages_are_current(script, remedy):
  """A field without a docstring raises, with its file and line."""
  module = importlib.import_module(f"docs.{script}")
  assert module.PAGE.read_text() == module.page(), f"run {remedy}"


def test_the_site_builds_without_warnings(tmp_path):
  command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
  built = subprocess.run(
    [*command, f"--site-dir={tmp_path / 'site'}"],
    cwd=ROOT,
    env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    capture_output=True,
    text=True,
  )
  assert built.returncode == 0, built.stderr
  start = (tmp_path / "site" / "index.html").read_text()
  # The reader's browser loads no fonts or scripts from other servers.
  loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="(.*?)"', start)
  assert loaded
  assert not [url for url in loaded if url.startswith(("http", "//"))]
