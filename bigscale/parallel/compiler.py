"""Compiler options for XLA: for what trains, and for what runs only once.

On CPUs XLA hands convolutions to YNNPACK (jaxlib 0.10). That is as good as
Eigen going forward and five times slower for the gradient of the weights, where
the kernel is as large as the map: 390 ms of processor time for 73 (3x3, 128
maps of 16 px and 64 channels, float32). It can also crash where it sums over
several axes. Matrix products stay with it.

That is so for the steps of our models, and need not be elsewhere: 40 steps of
the classifier that `metrics` trains took 23.5 s of processor time with the
option and 9.4 s without, on a busy machine.
"""

import functools
import os

import jax

# Where running matters.
_CPU = {
  "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}
# Where compiling takes longer than running: about a third of the time. Starting
# values that are orthogonal take a minute otherwise.
_CPU_ONCE = {
  "xla_backend_optimization_level": "0",
  "xla_llvm_disable_expensive_passes": "true",
  "xla_cpu_use_fusion_emitters": "false",
}


def options(platform: str) -> dict[str, str]:
  """Returns the `compiler_options` of `jax.jit` for a program that trains.

  Args:
    platform: of the devices that will run it: `cpu`, `gpu` or `tpu`.

  Returns:
    What differs from XLA's defaults: nothing where the user's XLA_FLAGS say
    something of it, or where this version of XLA does not know the option.
  """
  return _usable(_CPU) if platform == "cpu" else {}


def options_to_run_once(platform: str) -> dict[str, str]:
  """Returns options that make compiling fast and the program slow.

  Args:
    platform: as in `options`.

  Returns:
    As `options` does.
  """
  return _usable(_CPU_ONCE) if platform == "cpu" else {}


def _usable(wanted: dict[str, str]) -> dict[str, str]:
  flags = os.environ.get("XLA_FLAGS", "")
  return {
    name: value
    for name, value in wanted.items()
    if name not in flags and _known(name, value)
  }


@functools.cache
def _known(name: str, value: str) -> bool:
  """Whether XLA takes the option: they come and go with its versions."""
  device = jax.sharding.SingleDeviceSharding(
    jax.local_devices(backend="cpu")[0]
  )
  nothing = jax.ShapeDtypeStruct((), "int32", sharding=device)
  try:
    jax.jit(lambda x: x).lower(nothing).compile({name: value})
  except jax.errors.JaxRuntimeError:
    return False
  return True
