"""Sets up eight virtual CPU devices for the whole suite before XLA starts."""

import gc
import os
import tempfile
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from bigscale.parallel.environment import prepare_cpu
from tests import fast_compile
from tests.place.servers import (  # noqa: F401 (fixtures of all folders)
  faulty,
  gs_bucket,
  gs_server,
  s3_bucket,
  s3_server,
)

jax.config.update("jax_numpy_rank_promotion", "raise")

# Files that take minutes and should start early.
_LONGEST = (
  "test_golden",
  "test_monitor",
  "test_resume",
  "test_same_numbers",
  "test_import_export",
  "test_commands",
  "test_objective",
  "test_configs",
  "test_families",
  "test_notebooks",
)


def pytest_configure(config: pytest.Config) -> None:
  """Uses fast compilation in the fast tier, where no program runs for long."""
  fast = config.option.markexpr == "not slow"
  flags = fast_compile.FLAGS if fast else fast_compile.SLOW_TIER
  os.environ.setdefault("XLA_FLAGS", flags)
  prepare_cpu(virtual_devices=8)
  if fast:
    share_programs(config)
  if getattr(config.option, "numprocesses", 0) and not hasattr(
    config, "workerinput"
  ):
    return  # Workers of pytest-xdist inherit the flags and run the tests.
  fast_compile.start()


def share_programs(config: pytest.Config) -> None:
  """Shares compiled programs between files that build the same small runs."""
  # JAX recompiles a program that another process is still writing.
  half = "ignore:Error reading persistent compilation cache"
  config.addinivalue_line("filterwarnings", half)
  if not hasattr(config, "workerinput"):  # Workers inherit it.
    programs = tempfile.TemporaryDirectory(prefix="bigscale_programs_")
    config.add_cleanup(programs.cleanup)
    fast_compile.keep_programs(programs.name)


def pytest_collection_finish() -> None:
  """Collects garbage rarely, because tracing allocates many objects."""
  gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _freeze_the_heap() -> Iterator[None]:
  """Collects each file's garbage, and exempts the rest from later collections.

  JAX's caches and the tests are a heap of millions of live objects. Scanning it
  took seconds by the end of the suite.
  """
  yield
  gc.collect()
  gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Runs the longest files first."""

  def rank(item: pytest.Item) -> int:
    name = item.path.stem
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

  items.sort(key=rank)
