"""XLA compiler options for training programs and for programs that run once.

`TRAINING` contains the default options of training programs.
`operations.compiler_options` and the variables in `ENVIRONMENT` override them.

CPU: by default, XLA runs convolutions with YNNPACK (jaxlib 0.10). Its forward
pass is as fast as Eigen's. Its gradient of the weights, where the kernel is as
large as the map, is five times slower: 390 ms instead of 73 ms of processor
time (3x3, 128 maps of 16 px and 64 channels, float32). It can also crash when
it sums over several axes. The option keeps YNNPACK for matrix products only.
Other programs can be slower with it: 40 steps of the classifier that `metrics`
trains took 23.5 s of processor time with the option and 9.4 s without, on a
busy machine.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Mapping, Sequence

import jax

import bigscale
from bigscale.spec import SpecError

# XLA requires the type of the option: the string "true" is not a bool.
Value = str | bool | int
Options = Mapping[str, Value]
_BOOL: dict[str, Value] = {"true": True, "false": False}

# Start of XLA's error message for an unknown option.
_UNKNOWN = "No such compile option"

# Environment variables in which a user can also set options.
ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

# Lets TPUs fuse matrix products whose operands are matrix products, so that
# attention weights are not stored in memory.
_FUSED_PRODUCTS = {
  "xla_tpu_enable_multi_level_nested_dot_fusion": True,
  "xla_tpu_enable_multi_level_input_dot_dot_fusion": True,
  "xla_tpu_enable_multi_level_output_dot_dot_fusion": True,
  "xla_tpu_enable_experimental_fusion_cost_model": True,
}
# Overlaps the all-reduce of gradients with the backward pass.
_ASYNCHRONOUS_SUMS = {
  "xla_enable_async_all_reduce": True,
  "xla_tpu_enable_async_collective_fusion_fuse_all_reduce": True,
  "xla_tpu_prefer_async_allgather_to_allreduce": True,
}
# Limits how many bytes of all-reduces are combined. If all were combined into
# one at the end, nothing could overlap.
_COMBINED_BYTES = 4 * 2**20
_SMALL_SUMS = {
  "xla_jf_crs_combiner_threshold_in_bytes": _COMBINED_BYTES,
  "xla_tpu_arf_combiner_threshold_in_bytes": _COMBINED_BYTES,
  "xla_tpu_ars_combiner_threshold_in_bytes": _COMBINED_BYTES,
}

# Options of training programs, by platform.
TRAINING: Mapping[str, Options] = {
  "cpu": {
    "xla_cpu_experimental_ynn_fusion_type": (
      "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    )
  },
  "tpu": {**_FUSED_PRODUCTS, **_ASYNCHRONOUS_SUMS, **_SMALL_SUMS},
}
# Options of programs that take longer to compile than to run. They reduce the
# time to about a third: orthogonal initialization takes a minute otherwise.
_CPU_ONCE = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}


def options(device: jax.Device, chosen: Sequence[str] = ()) -> dict[str, Value]:
  """Returns the `compiler_options` of `jax.jit` for a training program.

  Args:
    device: a device that will run the program, or a device of a topology
      description.
    chosen: NAME=VALUE options of the run, which override the defaults. An empty
      value keeps XLA's default.

  Returns:
    Options to set. A default option is omitted if a variable in `ENVIRONMENT`
    sets it or if this version of XLA does not support it.

  Raises:
    SpecError: if XLA does not support an option of the run or its value.
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
        f"compiler for {device.device_kind} rejects ({found}); correct or "
        "remove it"
      )
  ours = TRAINING.get(device.platform, {})
  ours = {name: value for name, value in ours.items() if name not in own}
  return _usable(device, ours) | kept


def options_to_run_once(platform: str) -> dict[str, Value]:
  """Returns options for fast compilation of a slow program.

  Args:
    platform: `cpu`, `gpu` or `tpu`.

  Returns:
    Options to set; {} unless the platform is `cpu`.
  """
  if platform != "cpu":
    return {}
  return _usable(jax.local_devices(backend="cpu")[0], _CPU_ONCE)


def environment(options: Options) -> dict[str, object]:
  """Returns the compiler options and variables of this process, for logging.

  Args:
    options: compiler options of the run's programs.
  """
  variables = {name: os.environ.get(name, "") for name in ENVIRONMENT}
  return {"compiler_options": dict(options), **variables}


def versions() -> dict[str, str]:
  """Returns the versions of the packages that determine a program."""
  found = {"bigscale": bigscale.__version__}
  for name in ("jax", "jaxlib", "libtpu"):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  return found


@functools.cache
def sources() -> str:
  """Returns a fingerprint of the package's source code."""
  root = pathlib.Path(bigscale.__file__).parent
  digest = hashlib.sha256()
  for path in sorted(root.rglob("*.py")):
    digest.update(path.relative_to(root).as_posix().encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()


def _usable(device: jax.Device, wanted: Options) -> dict[str, Value]:
  """Returns the options that XLA supports and `ENVIRONMENT` does not set.

  Raises:
    ValueError: if XLA supports an option but not its value.
  """
  flags = " ".join(os.environ.get(name, "") for name in ENVIRONMENT).split()
  set_by_user = {flag.lstrip("-").partition("=")[0] for flag in flags}
  unset = {
    name: value for name, value in wanted.items() if name not in set_by_user
  }
  if _refusal(device, tuple(unset.items())) is None:
    return unset
  known = {}
  for name, value in unset.items():
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
  """Returns XLA's error message for these options, or None if it has none."""
  if not wanted:
    return None
  sharding = jax.sharding.SingleDeviceSharding(device)
  nothing = jax.ShapeDtypeStruct((), "int32", sharding=sharding)
  try:
    jax.jit(lambda x: x).lower(nothing).compile(dict(wanted))
  except jax.errors.JaxRuntimeError as error:
    return str(error).partition(": ")[2] or str(error)
  return None
