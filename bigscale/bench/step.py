"""Measures the throughput of a run's step on random images.

The step is the one that training uses, from `train.build`. Reading data is
excluded.
"""

import dataclasses
import functools
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.parallel import compiler
from bigscale.parallel.mesh import make_mesh
from bigscale.scaling import jaxpr_flops
from bigscale.spec import RunSpec, require
from bigscale.train.build import Built, build
from bigscale.types import Batch, PyTree

# Steps before the timing, which allocate memory and fill caches.
_WARM_UP = 2
# Side of the square matrices whose product measures a device's peak speed.
_BOUND_SIDE = {"cpu": 2048, "gpu": 8192, "tpu": 8192}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTiming:
  """Timing of a step.

  Attributes:
    devices: number and kind of the devices.
    compile_seconds: seconds to trace and compile the step.
    median_seconds: median seconds of a step.
    min_seconds: seconds of the fastest step.
    images_per_second: real images that D sees per second, from the median.
    step_tflop: TFLOP of a step's convolutions and matrix products, over all
      devices.
    tflop_per_second: achieved TFLOP/s, from the median.
    bound_tflop_per_second: TFLOP/s of large matrix products over all devices,
      in the dtype that the model computes in.
    peak_rss_gib: peak memory of this process.
    peak_device_gib: peak memory of the fullest device; None if devices do not
      report it.
  """

  devices: str
  compile_seconds: float
  median_seconds: float
  min_seconds: float
  images_per_second: float
  step_tflop: float
  tflop_per_second: float
  bound_tflop_per_second: float
  peak_rss_gib: float
  peak_device_gib: float | None

  def __str__(self) -> str:
    share = self.tflop_per_second / self.bound_tflop_per_second
    device = self.peak_device_gib
    rows = {
      "devices": self.devices,
      "compile": f"{self.compile_seconds:.1f} s",
      "step, median": f"{1e3 * self.median_seconds:.1f} ms",
      "step, fastest": f"{1e3 * self.min_seconds:.1f} ms",
      "images": f"{self.images_per_second:.1f} /s",
      "arithmetic": f"{self.tflop_per_second:.3g} TFLOP/s, {share:.0%} of the "
      f"{self.bound_tflop_per_second:.3g} TFLOP/s of a large matrix product",
      "peak memory": f"{self.peak_rss_gib:.2f} GiB in this process"
      + (f", {device:.2f} GiB on a device" if device is not None else ""),
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows.items())


def measure(spec: RunSpec, steps: int) -> StepTiming:
  """Compiles a run's step and times it.

  Args:
    spec: spec of the run. Its data source is not read.
    steps: number of steps to time, after warm-up steps.

  Raises:
    SpecError: `steps` is less than 1, or the spec does not fit the devices.
  """
  require(steps >= 1, f"steps={steps} must be at least 1")
  built = build(spec, make_mesh(spec.mesh))
  start = time.perf_counter()
  step = built.step.lower(built.abstract_state, built.abstract_batch).compile()
  compile_seconds = time.perf_counter() - start
  seconds = time_steps(built, step, steps)
  median = statistics.median(seconds)
  flop = jaxpr_flops.of_call(
    built.step, built.abstract_state, built.abstract_batch
  ).flops
  devices = list(built.mesh.devices.flat)
  return StepTiming(
    devices=f"{len(devices)} x {devices[0].device_kind}",
    compile_seconds=compile_seconds,
    median_seconds=median,
    min_seconds=min(seconds),
    images_per_second=spec.images_per_step / median,
    step_tflop=flop / 1e12,
    tflop_per_second=flop / median / 1e12,
    bound_tflop_per_second=_bound(spec, devices) / 1e12,
    peak_rss_gib=_peak_rss() / 2**30,
    peak_device_gib=_peak_device(devices),
  )


def random_batch(built: Built, seed: int = 0) -> Batch:
  """Returns a random batch with the shape and sharding of a real one."""
  random = np.random.default_rng(seed)
  images, labels = built.abstract_batch
  classes = max(1, built.spec.model.num_classes)
  drawn = Batch(
    random.integers(0, 256, images.shape, np.uint8),
    random.integers(0, classes, labels.shape, np.int32),
  )
  return jax.device_put(drawn, Batch(images.sharding, labels.sharding))


def first_state(built: Built) -> PyTree:
  """Returns the initial training state."""
  platform = built.mesh.devices.flat[0].platform
  options = compiler.options_to_run_once(platform)
  return built.init.lower().compile(options)()


def time_steps(
  built: Built, step: jax.stages.Compiled, count: int
) -> list[float]:
  """Returns the seconds of each of `count` steps, after warm-up steps."""
  state, batch = first_state(built), random_batch(built)
  seconds = []
  for _ in range(_WARM_UP + count):
    start = time.perf_counter()
    state, scalars = step(state, batch)
    jax.block_until_ready((state, scalars))
    seconds.append(time.perf_counter() - start)
  return seconds[_WARM_UP:]


def _bound(spec: RunSpec, devices: list[jax.Device]) -> float:
  """Returns the FLOP/s of large matrix products over all devices."""
  platform = devices[0].platform
  half = spec.model.bf16_stages > 0
  dtype = jnp.bfloat16 if half else jnp.dtype(spec.model.dtype)
  side = _BOUND_SIDE.get(platform, 4096)
  square = jax.device_put(jnp.ones((side, side), dtype), devices[0])
  # The precision of the networks' products.
  product = jax.jit(
    functools.partial(jnp.matmul, precision=spec.model.precision)
  )
  seconds = []
  for _ in range(4):
    start = time.perf_counter()
    jax.block_until_ready(product(square, square))
    seconds.append(time.perf_counter() - start)
  # CPU devices share all cores, so one device already uses all of them.
  count = 1 if platform == "cpu" else len(devices)
  return count * 2 * side**3 / min(seconds)


def _peak_rss() -> int:
  """Returns the peak memory of this process in bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


def _peak_device(devices: list[jax.Device]) -> float | None:
  """Returns the peak memory of the fullest device in GiB, if reported."""
  found = [(device.memory_stats() or {}) for device in devices]
  peaks = [stats.get("peak_bytes_in_use") for stats in found]
  return None if None in peaks else max(peaks) / 2**30
