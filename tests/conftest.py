"""Eight virtual CPU devices for the whole suite, set before JAX starts."""

import os

from bigscale.parallel.environment import prepare_cpu

# Compiling takes far longer than running anything here.
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")
prepare_cpu(virtual_devices=8)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """The longest files first."""

  def rank(item: pytest.Item) -> int:
    name = item.path.stem
    return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

  items.sort(key=rank)
