"""Compiler options for XLA: for what trains, and for what runs only once.

`TRAINING` is the one table of those of a run. `operations.compiler_options` and
the variables of `ENVIRONMENT` come before it.

CPU: XLA hands convolutions to YNNPACK (jaxlib 0.10). That is as good as Eigen
going forward and five times slower for the gradient of the weights, where the
kernel is as large as the map: 390 ms of processor time for 73 (3x3, 128 maps of
16 px and 64 channels, float32). It can also crash where it sums over several
axes. Matrix products stay with it. That is so for the steps of our models, and
need not be elsewhere: 40 steps of the classifier that `metrics` trains took
23.5 s of processor time with the option and 9.4 s without, on a busy machine.
"""

import functools
import os
from collections.abc import Mapping, Sequence

import jax

from bigscale.spec import SpecError

# Values are of the option's own type: "true" is no bool to XLA.
Value = str | bool | int
Options = Mapping[str, Value]
_BOOL: dict[str, Value] = {"true": True, "false": False}

# What XLA says of an option that it does not know.
_UNKNOWN = "No such compile option"

# Where a user may say something of an option, too.
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

# Attention without its weights in memory: a TPU fuses products whose operands
# are products.
_FUSED_PRODUCTS = {
  "xla_tpu_enable_multi_level_nested_dot_fusion": True,
  "xla_tpu_enable_multi_level_input_dot_dot_fusion": True,
  "xla_tpu_enable_multi_level_output_dot_dot_fusion": True,
  "xla_tpu_enable_experimental_fusion_cost_model": True,
}
# Sums of gradients that run beside the backward pass.
_ASYNCHRONOUS_SUMS = {
  "xla_enable_async_all_reduce": True,
  "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
  "xla_tpu_prefer_async_allgather_to_allreduce": True,
}
# They cannot while all are combined into one at its end: messages are combined
# up to so many bytes.
_COMBINED_BYTES = 4 * 2**20
_SMALL_SUMS = {
  "xla_jf_crs_combiner_threshold_in_bytes": _COMBINED_BYTES,
  "xla_tpu_arf_combiner_threshold_in_bytes": _COMBINED_BYTES,
  "xla_tpu_ars_combiner_threshold_in_bytes": _COMBINED_BYTES,
}

# By platform: where running matters.
TRAINING: Mapping[str, Options] = {
  "cpu": {
    "xla_cpu_experimental_ynn_fusion_type": (
      "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
  },
  "tpu": {**_FUSED_PRODUCTS, **_ASYNCHRONOUS_SUMS, **_SMALL_SUMS},
}
# Where compiling takes longer than running: about a third of the time. Starting
# values that are orthogonal take a minute otherwise.
_CPU_ONCE = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}


def options(device: jax.Device, chosen: Sequence[str] = ()) -> dict[str, Value]:
  """Returns the `compiler_options` of `jax.jit` for a program that trains.

  Args:
    device: one of those that will run it; of a topology, too.
    chosen: NAME=VALUE of the run's own, which come before the project's; with
      an empty value XLA's default stays.

  Returns:
    Options to set. Those of the project are left out where a variable of
    `ENVIRONMENT` names them, or where this version of XLA does not know them.

  Raises:
    SpecError: XLA does not know one of the run's own, or not its value.
  """
  own = dict(one.split("=", 1) for one in chosen)
  kept = {
    name: _BOOL.get(value.lower(), value)
    for name, value in own.items()
    if value
  }
  for name, value in kept.items():
    found = _refusal(device, ((name, value),))
    if found is not None:
      raise SpecError(
        f"operations.compiler_options has {name}={own[name]}, which the "
        f"compiler for {device.device_kind} does not take ({found}); mend it, "
        "or leave it out"
      )
  ours = TRAINING.get(device.platform, {})
  ours = {name: value for name, value in ours.items() if name not in own}
  return _usable(device, ours) | kept


def options_to_run_once(platform: str) -> dict[str, Value]:
  """Returns options that make compiling fast and the program slow.

  Args:
    platform: `cpu`, `gpu` or `tpu`; only on a CPU there are some.

  Returns:
    As `options` does.
  """
  if platform != "cpu":
    return {}
  return _usable(jax.local_devices(backend="cpu")[0], _CPU_ONCE)


def environment(options: Options) -> dict[str, object]:
  """Returns all that a compiler of this process was told, for the record.

  Args:
    options: of the run's programs.
  """
  told = {name: os.environ.get(name, "") for name in ENVIRONMENT}
  return {"compiler_options": dict(options), **told}


def _usable(device: jax.Device, wanted: Options) -> dict[str, Value]:
  """Returns the options that XLA knows and that `ENVIRONMENT` does not name.

  Raises:
    ValueError: XLA knows the option, but not the value.
  """
  flags = " ".join(os.environ.get(name, "") for name in ENVIRONMENT).split()
  said = {flag.lstrip("-").partition("=")[0] for flag in flags}
  asked = {name: value for name, value in wanted.items() if name not in said}
  if _refusal(device, tuple(asked.items())) is None:
    return asked
  known = {}
  for name, value in asked.items():
    found = _refusal(device, ((name, value),))
    if found is None:
      known[name] = value
    elif _UNKNOWN not in found:
      raise ValueError(f"{name}={value!r}: {found}")
  return known


@functools.cache
def _refusal(
  device: jax.Device, wanted: tuple[tuple[str, Value], ...]
) -> str | None:
  """Returns XLA's error message for these options, or None if it takes them."""
  if not wanted:
    return None
  sharding = jax.sharding.SingleDeviceSharding(device)
  nothing = jax.ShapeDtypeStruct((), "int32", sharding=sharding)
  try:
    jax.jit(lambda x: x).lower(nothing).compile(dict(wanted))
  except jax.errors.JaxRuntimeError as error:
    return str(error).partition(": ")[2] or str(error)
  return None
