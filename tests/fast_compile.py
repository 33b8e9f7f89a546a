"""How tests compile what runs for a moment only: a third of the time.

Not for tests that train or draw much: programs made so run several times
slower.

`OPTIONS` are for `jax.jit` and `lower(...).compile`, and `FLAGS` the same for a
process of its own, as XLA_FLAGS.
"""

from typing import Any

import jaxlib

from bigscale.parallel import compiler

# XLA ends a process that gives it a flag that it does not know.
_SINCE_GONE = {"xla_cpu_use_fusion_emitters": (0, 11)}
_VERSION = tuple(map(int, jaxlib.__version__.split(".")[:2]))

FLAGS = " ".join(
  f"--{name}={value}"
  for name, value in compiler._CPU_ONCE.items()
  if name not in _SINCE_GONE or _SINCE_GONE[name] > _VERSION
)


def __getattr__(name: str) -> Any:
  # Asked for when needed: XLA says which it knows once it has started, and
  # processes that are to meet must not start it before.
  if name == "OPTIONS":
    return compiler.options_to_run_once("cpu")
  raise AttributeError(name)
