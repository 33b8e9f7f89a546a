"""Modules import each other as designed, and files stay small."""

import ast
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "bigscale"

# (module pattern, packages or modules that it may import besides its own
# package). The first match wins. All modules may import those in FREE.
FREE = ("spec", "types", "temporary", "cache_folder", "place")
RULES = (
  (r"__init__|types|temporary|cache_folder", ()),
  (r"(spec|place)/.*", ()),
  (r"ops/.*|parallel/.*|data/.*", ()),
  (r"losses/.*", ("ops",)),
  (r"models/.*", ("ops",)),
  (r"sampling/.*", ("models", "ops", "parallel")),
  (r"metrics/.*", ("sampling", "data", "parallel", "ops")),
  # Reads run folders; only `train/sealed` verifies their files.
  (r"report/.*", ("train/sealed",)),
  # The verdict needs only NumPy, so it can run on any trace.
  (
    r"monitor/(verdict|pace|scan|scales|column_signal|columns|evidence|onset|foreign_logs|trace|dead|scoring|probes)",
    ("ops",),
  ),
  (
    r"monitor/.*",
    ("train", "metrics", "sampling", "parallel", "ops"),
  ),
  # Laws accept any table; costs come from traced networks.
  (
    r"scaling/(flops|network_cost|jaxpr_flops|families|rules)",
    ("models", "losses", "ops"),
  ),
  (
    r"scaling/(collect|folders|jobs|runs)",
    ("train", "metrics", "monitor", "data", "parallel", "report"),
  ),
  (r"scaling/.*", ()),
  (
    r"train/.*",
    (
      *("models", "losses", "ops", "parallel", "sampling", "data", "metrics"),
      *("monitor", "scaling/flops", "scaling/jaxpr_flops", "report"),
    ),
  ),
  (
    r"interop/.*",
    ("models", "train", "metrics", "ops", "parallel", "sampling"),
  ),
  (r"plan/.*|bench/.*", ("train/build", "parallel", "ops", "scaling", "data")),
  (r"cli/.*", ("",)),
)


# Packages whose paths may be addresses such as gs://bucket/set.
ADDRESSED = ("data/",)


def modules() -> list[pathlib.Path]:
  return sorted(PACKAGE.rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports_of(path: pathlib.Path) -> set[str]:
  """Returns the bigscale modules that a file imports, like "train/state"."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: relative import"
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
      continue
    for name in names:
      if name.split(".")[0] != "bigscale":
        if name.split(".")[0] in ("configs", "launch", "tests"):
          found.add(name.split(".")[0])
        continue
      parts = name.split(".")[1:]
      while parts and not _is_module(parts):
        parts = parts[:-1]
      found.add("/".join(parts))
  return {name for name in found if name and name.split("/")[0] not in FREE}


def _is_module(parts: list[str]) -> bool:
  path = PACKAGE.joinpath(*parts)
  return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_follow_the_design(path):
  name = name_of(path)
  allowed = next(
    (to for pattern, to in RULES if re.fullmatch(pattern, name)), None
  )
  assert allowed is not None, f"{name} has no row in RULES; add one"
  allowed = (name.split("/")[0], *allowed)
  for imported in imports_of(path):
    assert any(
      imported == to or imported.startswith(f"{to}/") or to == ""
      for to in allowed
    ), f"{name} must not import {imported}; it may import {allowed}"


def test_there_are_no_import_cycles():
  """There are no import cycles, including imports in functions and tables.

  Within the package of a model family, the spec builds the networks, which
  import it. `spec` finds extensions by name, and they import `spec`.
  """
  graph = {name_of(path): _edges(path) for path in modules()}
  while free := {*graph} - ({*graph} & set().union(*graph.values())) | {
    name for name, to in graph.items() if not to
  }:
    graph = {name: to - free for name, to in graph.items() if name not in free}
  assert not graph, f"import cycle: {graph}"


def _edges(path: pathlib.Path) -> set[str]:
  """Returns modules that a file imports or names as "bigscale.module:Name"."""
  found = set()
  own = path.parent.relative_to(PACKAGE).as_posix()
  for node in _nodes(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      named = re.fullmatch(r"(bigscale(?:\.\w+)+):\w+", node.value)
      names = [named[1]] if named and own != "spec" else []
    else:
      continue
    for name in names:
      parts = name.split(".")
      if parts.pop(0) != "bigscale":
        continue
      while parts and not PACKAGE.joinpath(*parts).with_suffix(".py").is_file():
        parts = parts[:-1]
      found.add("/".join(parts))
  if own.startswith("models/"):
    found = {name for name in found if not name.startswith(f"{own}/")}
  return found - {""}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
  """Yields all nodes except those in `if TYPE_CHECKING` blocks."""
  for node in ast.iter_child_nodes(tree):
    if not (
      isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ):
      yield node
      yield from _nodes(node)


def test_no_module_imports_the_command_line():
  for path in modules():
    if not name_of(path).startswith("cli"):
      assert not any(i.startswith("cli") for i in imports_of(path)), path


def test_addresses_do_not_become_local_paths():
  """Modules that take addresses use neither `pathlib` nor `etils.epath`.

  `pathlib.Path("gs://bucket/set")` is the local folder `gs:/bucket/set`.
  `place.on_disk` refuses addresses, and only `open_place` opens them.
  """
  for path in modules():
    name = name_of(path)
    tree = ast.parse(path.read_text())
    if name.startswith(ADDRESSED):
      imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import)]
      imports = {alias.name for node in imports for alias in node.names}
      froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
      imports |= {node.module for node in froms}
      assert not imports & {"pathlib", "etils", "etils.epath"}, path
    if not name.startswith("place/"):
      made = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
      assert not made & {"DiskPlace", "BucketPlace"}, f"{path}: open_place"


def test_only_networks_import_linen():
  allowed = re.compile(r"models/.*|metrics/(classifier|inception|efficientnet)")
  for path in modules():
    if "flax.linen" in path.read_text() and not allowed.fullmatch(
      name_of(path)
    ):
      lines = [n for n in ast.walk(ast.parse(path.read_text()))]
      imported = [
        n
        for n in lines
        if isinstance(n, (ast.Import, ast.ImportFrom))
        and "flax" in (getattr(n, "module", None) or n.names[0].name)
      ]
      assert not imported, f"{path} imports flax.linen"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  assert len(text.splitlines()) <= 400, "file over 400 lines"
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      length = node.end_lineno - node.lineno + 1
      limit = 100 if node.name == "__call__" else 70
      assert length <= limit, f"{node.name} has {length} lines"


def test_import_is_light():
  """`import bigscale` does not import TensorFlow, plotting or Orbax."""
  heavy = ("tensorflow", "matplotlib", "orbax", "PIL", "grain", "clu")
  code = (
    "import sys, bigscale, bigscale.spec, bigscale.models.make;"
    f"print([m for m in {heavy!r} if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"


def test_no_module_has_a_catch_all_name():
  """No module has a catch-all name such as utils or helpers."""
  for path in modules():
    assert path.stem not in ("utils", "helpers", "misc", "common_utils")


def test_no_two_test_files_have_one_name():
  """Without packages, pytest imports a test file by its name alone."""
  names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
  twice = {name for name in names if names.count(name) > 1}
  assert not twice
