"""How tests compile what runs for a moment only: a third of the time.

Programs made so run several times slower. `OPTIONS` are for `jax.jit` and
`lower(...).compile`, and `FLAGS` the same as the XLA_FLAGS of a process of its
own. `FAST_TIER` are the XLA_FLAGS of the fast tier: those of `FLAGS` that the
TPU's compiler knows, too, which ends a process at one that it does not know.
The slow tier trains, and leaves out only what LLVM takes longest for.
"""

from typing import Any

import jaxlib

from bigscale.parallel import compiler

# XLA ends a process that gives it a flag that it does not know.
_SINCE_GONE = {"xla_cpu_use_fusion_emitters": (0, 11)}
_VERSION = tuple(map(int, jaxlib.__version__.split(".")[:2]))

FLAGS = " ".join(
  f"--{name}={value}".lower()
  for name, value in compiler._CPU_ONCE.items()
  if name not in _SINCE_GONE or _SINCE_GONE[name] > _VERSION
)
FAST_TIER = " ".join(f for f in FLAGS.split() if not f.startswith("--xla_cpu"))
SLOW_TIER = "--xla_llvm_disable_expensive_passes=true"


def __getattr__(name: str) -> Any:
  # Asked for when needed: XLA says which it knows once it has started, and
  # processes that are to meet must not start it before.
  if name == "OPTIONS":
    return compiler.options_to_run_once("cpu")
  raise AttributeError(name)
