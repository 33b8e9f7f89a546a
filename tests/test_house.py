"""The house stands as designed: who imports whom, and how large rooms are."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "bigscale"

# (file, what it may import), first match wins. `spec`, `types`, `temporary` and
# `cache_folder` are free for all, and everything may import its own subpackage
# where listed.
RULES = (
  (r"__init__", ()),
  (r"spec/.*", ("spec",)),
  (r"types|temporary|cache_folder", ()),
  (r"[a-z]+/__init__", ("report",)),
  (r"ops/.*", ("ops",)),
  (r"parallel/.*", ("parallel",)),
  (r"losses/.*", ("losses", "ops")),
  (r"models/.*", ("models", "ops")),
  (r"data/.*", ("data",)),
  (r"sampling/latents", ("ops",)),
  (r"sampling/grid", ()),
  (r"sampling/sheets", ("sampling",)),
  (r"sampling/.*", ("sampling/latents", "models", "ops", "parallel")),
  (
    r"metrics/(classifier|classifier_store|cache)",
    ("metrics", "ops", "data", "parallel"),
  ),
  (
    r"metrics/(evaluate|opening|labels|reference|memorization)",
    ("metrics", "sampling", "data", "parallel"),
  ),
  (r"metrics/(inception|efficientnet|chunks|share)", ("metrics", "parallel")),
  # Long loops can be broken off.
  (r"metrics/.*", ("metrics", "ops", "parallel/interruption")),
  # What a file of a run is worth.
  (r"report/read", ("report", "train/sealed")),
  (r"report/.*", ("report",)),
  # The verdict is pure Python: it may be run on anybody's numbers.
  (
    r"monitor/(verdict|signals|trace)",
    ("monitor/verdict", "monitor/signals", "monitor/dead"),
  ),
  (r"monitor/dead", ()),
  (r"monitor/probes", ("ops",)),
  (r"monitor/snapshots", ("train/state", "parallel")),
  (r"monitor/scoring", ()),
  (r"monitor/faults", ("train/disturb", "train/state")),
  (
    r"monitor/(drills|drill_stages)",
    ("monitor", "train", "metrics", "sampling", "parallel"),
  ),
  # What makes or reads a whole run.
  (
    r"interop/(assemble|export)",
    (
      "interop",
      "models",
      "train",
      "ops",
      "parallel/compiler",
      "sampling/latents",
    ),
  ),
  (
    r"interop/inception",
    (
      "interop",
      "metrics/features",
      "metrics/inception",
      "metrics/inception_store",
    ),
  ),
  (
    r"interop/.*",
    ("interop", "models", "train/state", "train/checkpoint", "ops"),
  ),
  (
    r"train/(state|optim|augmentation|judge|tracking|weights|microbatches|draw|"
    r"objective|step|probe|build)",
    (
      "monitor/probes",
      "train/probe",
      "train/state",
      "train/optim",
      "train/augmentation",
      "train/judge",
      "train/tracking",
      "train/weights",
      "train/microbatches",
      "train/draw",
      "train/objective",
      "train/step",
      "models",
      "losses",
      "ops",
      "parallel",
      # What a model must have before its run starts.
      "scaling/networks",
      "sampling/latents",
    ),
  ),
  (r"train/(claim|lives|logging|mount|sealed)", ()),
  (r"train/folder", ("train/claim", "train/sealed")),
  (r"train/(managers|notes)", ("train/sealed",)),
  (r"train/best", ("train/folder", "train/sealed")),
  (
    r"train/checkpoint",
    (
      "train/best",
      "train/managers",
      "train/notes",
      "train/sealed",
      "train/state",
      "parallel",
    ),
  ),
  (r"train/preemption", ("parallel",)),
  (r"train/disturb", ("train/state", "train/step")),
  (
    r"train/discriminate",
    ("train/build", "train/state", "train/tracking", "ops"),
  ),
  (r"train/meter", ("scaling/flops", "parallel")),
  (r"train/stragglers", ("parallel/watch",)),
  (r"train/interventions", ("train/state",)),
  (
    r"train/init_from",
    ("train/folder", "train/build", "train/checkpoint", "train/state"),
  ),
  (
    r"train/(hooks|guard|evaluation|scoring|loop|reals|resume)",
    (
      "train",
      "monitor/verdict",
      "monitor/snapshots",
      "metrics",
      "sampling",
      "data",
      "parallel",
      "report",
    ),
  ),
  # Fits of anybody's numbers, and costs from shapes.
  (
    r"scaling/(collect|folders|jobs|runs)",
    (
      "scaling",
      "train",
      "metrics",
      "data/reading",
      "parallel",
      "report/history",
      "report/missing",
      "report/read",
      "monitor/scoring",
      "monitor/dead",
    ),
  ),
  (r"scaling/shares", ("scaling/rows", "monitor/scoring")),
  (r"scaling/.*", ("scaling",)),
  (r"plan/.*", ("plan", "train/build", "parallel", "ops/precision")),
  (r"bench/data", ("data",)),
  (r"bench/.*", ("bench", "train/build", "parallel")),
  (r"cli/.*", ("",)),
)


def modules() -> list[pathlib.Path]:
  return sorted(PACKAGE.rglob("*.py"))


def name_of(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports_of(path: pathlib.Path) -> set[str]:
  """Modules of ours that a file imports, as "train/state"."""
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
  return (
    found
    - {"", "types", "temporary", "cache_folder"}
    - {n for n in found if n.startswith("spec")}
  )


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
  for imported in imports_of(path):
    assert any(
      imported == to or imported.startswith(f"{to}/") or to == ""
      for to in allowed
    ), f"{name} must not import {imported}; it may import {allowed}"


def test_no_module_imports_itself_over_others():
  """No circles, also none of imports in functions or of names in a table."""
  graph = {name_of(path): _edges(path) for path in modules()}
  while free := {*graph} - ({*graph} & set().union(*graph.values())) | {
    name for name, to in graph.items() if not to
  }:
    graph = {name: to - free for name, to in graph.items() if name not in free}
  assert not graph, f"modules that import each other in a circle: {graph}"


def _edges(path: pathlib.Path) -> set[str]:
  """Modules that a file imports, or names as "bigscale.module:Name"."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom):
      names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
      named = re.fullmatch(r"(bigscale(?:\.\w+)+):\w+", node.value)
      names = [named[1]] if named else []
    else:
      continue
    for name in names:
      parts = name.split(".")
      if parts.pop(0) != "bigscale":
        continue
      while parts and not PACKAGE.joinpath(*parts).with_suffix(".py").is_file():
        parts = parts[:-1]
      found.add("/".join(parts))
  return found - {""}


def test_nobody_imports_the_command_line():
  for path in modules():
    if not name_of(path).startswith("cli"):
      assert not any(i.startswith("cli") for i in imports_of(path)), path


def test_linen_stays_where_networks_are_written():
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
  """`import bigscale` pulls in neither TensorFlow nor plotting nor Orbax."""
  heavy = ("tensorflow", "matplotlib", "orbax", "PIL", "grain", "clu")
  code = (
    "import sys, bigscale, bigscale.spec, bigscale.models.registry;"
    f"print([m for m in {heavy!r} if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"


def test_rooms_are_listed():
  """No drawers: a file called utils or helpers is a missing decision."""
  for path in modules():
    assert path.stem not in ("utils", "helpers", "misc", "common_utils")
