"""What must stand in the environment before JAX starts on CPUs.

XLA's CPU client runs collectives on a pool of as many threads as there are
cores. With more virtual devices than cores, queued steps take every thread and
wait for peers that get none: a deadlock. A larger pool cures it, and a
time-out turns what is left of the problem into an error.

This module must not import JAX.
"""

import os

_POOL_THREADS = 16
_COLLECTIVE_TIMEOUT_SECONDS = 120


def prepare_cpu(virtual_devices: int | None = None) -> None:
  """Sets the variables, leaving those the user has set.

  Call it before the first `import jax`.

  Args:
    virtual_devices: CPU devices to make; None leaves JAX's default.
  """
  threads = max(_POOL_THREADS, 2 * (virtual_devices or 1))
  os.environ.setdefault("PJRT_NPROC", str(threads))
  flags = os.environ.get("XLA_FLAGS", "")
  wanted = {"--xla_cpu_collective_timeout_seconds": _COLLECTIVE_TIMEOUT_SECONDS}
  if virtual_devices:
    wanted["--xla_force_host_platform_device_count"] = virtual_devices
  for flag, value in wanted.items():
    if flag not in flags:
      flags = f"{flags} {flag}={value}"
  os.environ["XLA_FLAGS"] = flags.strip()
