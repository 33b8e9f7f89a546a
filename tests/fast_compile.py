"""How tests compile what runs for a moment only: a third of the time.

Programs made so run several times slower. `FLAGS` are the XLA_FLAGS of the fast
tier and of processes that either tier starts; `OPTIONS` are the same for
`jax.jit` and `lower(...).compile`, for the slow tier. That one trains: for the
rest it leaves out what LLVM takes longest for, `NO_EXPENSIVE_PASSES`.
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
NO_EXPENSIVE_PASSES = "--xla_llvm_disable_expensive_passes=true"


def __getattr__(name: str) -> Any:
  # Asked for when needed: XLA says which it knows once it has started, and
  # processes that are to meet must not start it before.
  if name == "OPTIONS":
    return compiler.options_to_run_once("cpu")
  raise AttributeError(name)
