"""Sets the environment variables that JAX needs on CPUs.

XLA's CPU client runs collectives on a thread pool with one thread per core.
With more virtual devices than cores, queued steps can occupy all threads while
they wait for devices that have no thread: a deadlock. A larger pool avoids it,
and a timeout turns any remaining deadlock into an error.

This module must not import JAX.
"""

import os

_POOL_THREADS = 16
_COLLECTIVE_TIMEOUT_SECONDS = 120


def prepare_cpu(virtual_devices: int | None = None) -> None:
  """Sets the variables, except those that the user has set.

  Call this before the first `import jax`.

  Args:
    virtual_devices: number of virtual CPU devices; None keeps JAX's default.
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
