"""Eight virtual CPU devices for the whole suite, set before XLA starts."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

from bigscale.parallel.environment import prepare_cpu
from tests import fast_compile

jax.config.update("jax_numpy_rank_promotion", "raise")

# Files of minutes, which two workers should not meet last.
_LONGEST = (
  "test_golden",
  "test_resume",
  "test_step",
  "test_commands",
  "test_configs",
  "test_notebooks",
  "test_import_export",
)


def pytest_configure(config: pytest.Config) -> None:
  """Compiles quickly in the fast tier, where nothing runs for long."""
  fast = config.option.markexpr == "not slow"
  flags = fast_compile.FLAGS if fast else fast_compile.SLOW_TIER
  os.environ.setdefault("XLA_FLAGS", flags)
  prepare_cpu(virtual_devices=8)
  if getattr(config.option, "numprocesses", 0) and not hasattr(
    config, "workerinput"
  ):
    return  # Of pytest-xdist: its workers inherit the flags, and run the tests.
  if fast:
    # Many files build the same small runs.
    programs = tempfile.TemporaryDirectory(prefix="bigscale_programs_")
    config.add_cleanup(programs.cleanup)
    fast_compile.keep_programs(programs.name)
    # A process that was killed as it wrote one leaves half of it.
    half = "ignore:Error reading persistent compilation cache"
    config.addinivalue_line("filterwarnings", half)
  fast_compile.start()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The longest files first."""

  def rank(item: pytest.Item) -> int:
    name = item.path.stem
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

  items.sort(key=rank)
