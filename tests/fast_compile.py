"""Compiler options for programs that tests run only briefly.

Compilation takes a third of the time, and programs run several times slower.
`OPTIONS` are for `jax.jit` and `lower(...).compile`. `FLAGS` are the same
options as XLA_FLAGS of a separate process. The fast tier uses them for all
programs. `start` hides them from the TPU compiler, which ends the process at an
unknown flag. The slow tier trains, so it omits only LLVM's slowest passes.
"""

import os
from typing import Any

import jax
import jaxlib

from bigscale.parallel import compiler

# Flags by the version that removed them: XLA ends the process at unknown flags.
_SINCE_GONE = {"xla_cpu_use_fusion_emitters": (0, 11)}
_VERSION = tuple(map(int, jaxlib.__version__.split(".")[:2]))

FLAGS = " ".join(
  f"--{name}={value}".lower()
  for name, value in compiler._CPU_ONCE.items()
  if name not in _SINCE_GONE or _SINCE_GONE[name] > _VERSION
)
_CPU_ALONE = {f"--{name}" for name in compiler._CPU_ONCE if "_cpu_" in name}
SLOW_TIER = "--xla_llvm_disable_expensive_passes=true"

# Cache only programs that take longer to compile.
_CACHE = {"persistent_cache_min_compile_time_secs": 0.3}


def __getattr__(name: str) -> Any:
  # Evaluated lazily: XLA reports the supported options only after it has
  # started, and processes that join a run must not start it earlier.
  if name == "OPTIONS":
    return compiler.options_to_run_once("cpu")
  raise AttributeError(name)


def keep_programs(folder: str) -> None:
  """Compiles each program once for this process and the processes it starts.

  Args:
    folder: compilation cache folder.
  """
  settings = {"compilation_cache_dir": folder} | _CACHE
  for name, value in settings.items():
    os.environ[f"JAX_{name.upper()}"] = str(value)
    jax.config.update(f"jax_{name}", value)


def start() -> None:
  """Starts XLA on CPUs with the current flags and then removes some of them.

  XLA's CPU client reads the flags once. The TPU compiler, which tests load
  later, reads them again and ends the process at flags that only CPUs have.
  """
  jax.local_devices(backend="cpu")
  known = os.environ["XLA_FLAGS"].split()
  os.environ["XLA_FLAGS"] = " ".join(
    flag for flag in known if flag.split("=")[0] not in _CPU_ALONE
  )
