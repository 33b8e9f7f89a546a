"""How tests compile what runs for a moment only: a third of the time.

Programs made so run several times slower. `OPTIONS` are for `jax.jit` and
`lower(...).compile`, and `FLAGS` the same as the XLA_FLAGS of a process of its
own: the fast tier's, which `start` hides from the TPU's compiler, since that
ends a process at a flag that it does not know. The slow tier trains, and leaves
out only what LLVM takes longest for.
"""

import os
from typing import Any

import jax
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
_CPU_ALONE = {f"--{name}" for name in compiler._CPU_ONCE if "_cpu_" in name}
SLOW_TIER = "--xla_llvm_disable_expensive_passes=true"

# What compiles faster is compiled again.
_CACHE = {"persistent_cache_min_compile_time_secs": 0.3}


def __getattr__(name: str) -> Any:
  # Asked for when needed: XLA says which it knows once it has started, and
  # processes that are to meet must not start it before.
  if name == "OPTIONS":
    return compiler.options_to_run_once("cpu")
  raise AttributeError(name)


def keep_programs(folder: str) -> None:
  """Compiles a program once, here and in the processes that tests start.

  Args:
    folder: for the programs of this process and of all that it starts.
  """
  settings = {"compilation_cache_dir": folder} | _CACHE
  for name, value in settings.items():
    os.environ[f"JAX_{name.upper()}"] = str(value)
    jax.config.update(f"jax_{name}", value)


def start() -> None:
  """Starts XLA on CPUs with the flags of now, and then takes some away.

  It reads them once. The TPU's compiler, which tests load later, reads them
  for itself, and those of CPUs alone end the process.
  """
  jax.local_devices(backend="cpu")
  known = os.environ["XLA_FLAGS"].split()
  os.environ["XLA_FLAGS"] = " ".join(
    flag for flag in known if flag.split("=")[0] not in _CPU_ALONE
  )
