"""Detects the processes of a run from the environment.

`detect` is a pure function of flags and environment variables. Flags have
priority over BIGSCALE_* variables, and these over the variables of a scheduler:
SLURM, Kubernetes on TPUs (GKE), a Cloud TPU machine. `detect` only finds out
whether there are other processes to wait for and rejects invalid settings. With
a scheduler, JAX reads the same variables and finds the coordinator itself.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from bigscale.spec import SpecError, require

COORDINATOR = "BIGSCALE_COORDINATOR"
NUM_PROCESSES = "BIGSCALE_NUM_PROCESSES"
PROCESS_ID = "BIGSCALE_PROCESS_ID"

# Values from JAX's cloud_tpu_cluster and slurm_cluster.
_TPU_PORT = "8482"
_SLURM_PORTS = 2**12

_ALONE = f"set {NUM_PROCESSES}=1 to run only in this process"

Environ = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Cluster:
  """The processes of a run.

  Attributes:
    kind: source of the settings; `single` means that there is one process.
    coordinator: HOST:PORT of process 0; None if JAX finds it.
    num_processes: number of processes; None if JAX finds it.
    process_id: index of this process, from 0; None if JAX finds it.
  """

  kind: Literal["single", "explicit", "slurm", "gke", "cloud_tpu"]
  coordinator: str | None = None
  num_processes: int | None = 1
  process_id: int | None = 0


SINGLE = Cluster("single")


def detect(
  environ: Environ,
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster:
  """Detects the cluster.

  Args:
    environ: environment variables. `import jax` must come first, because it
      sets variables that describe the TPU chips.
    coordinator: flag that overrides $BIGSCALE_COORDINATOR.
    num_processes: flag that overrides $BIGSCALE_NUM_PROCESSES.
    process_id: flag that overrides $BIGSCALE_PROCESS_ID.

  Raises:
    SpecError: if a value is missing, out of range or contradicts another.
  """
  environ = dict(environ)
  flags = (coordinator, num_processes, process_id)
  names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
  for name, value in zip(names, flags, strict=True):
    if value is not None:
      environ[name] = str(value)
  if any(name in environ for name in names):
    return _explicit(environ)
  found = [read(environ) for read in (_slurm, _gke)]
  found = [cluster for cluster in found if cluster != SINGLE]
  require(
    len(found) < 2,
    "SLURM variables and Kubernetes variables both describe several processes; "
    f"unset those that do not apply to this run, or {_ALONE}",
  )
  if found:
    return found[0]
  return _cloud_tpu(environ)


def _explicit(environ: Environ) -> Cluster:
  count = _number(environ, NUM_PROCESSES, low=1)
  if count == 1:
    return SINGLE
  index = _number(environ, PROCESS_ID, low=0, high=count)
  address = _text(environ, COORDINATOR)
  host, _, port = address.rpartition(":")
  require(
    bool(host) and port.isdecimal() and 0 < int(port) < 2**16,
    f"{COORDINATOR}={address} must be HOST:PORT of process 0, for example "
    "10.0.0.2:8476",
  )
  return Cluster("explicit", address, count, index)


def _slurm(environ: Environ) -> Cluster:
  # SLURM_NTASKS is also set in a batch script, but only srun starts a step.
  if "SLURM_STEP_NODELIST" not in environ or "SLURM_PROCID" not in environ:
    return SINGLE
  count = _number(environ, "SLURM_NTASKS", low=1)
  of_step = _number(environ, "SLURM_STEP_NUM_TASKS", low=1, default=count)
  require(
    of_step == count,
    f"SLURM_NTASKS={count} contradicts SLURM_STEP_NUM_TASKS={of_step}: srun "
    f"started {of_step} of the job's {count} tasks. Start all tasks, or "
    f"{_ALONE}",
  )
  if count == 1:
    return SINGLE
  index = _number(environ, "SLURM_PROCID", low=0, high=count)
  port = environ.get("JAX_COORDINATOR_PORT")
  if port is None:
    job = _number(environ, "SLURM_JOB_ID", low=0)
    port = str(job % _SLURM_PORTS + 2**16 - _SLURM_PORTS)
  host = _first_node(environ["SLURM_STEP_NODELIST"])
  return Cluster("slurm", f"{host}:{port}", count, index)


def _first_node(nodes: str) -> str:
  """Returns the first node of a list like `n1,n2` or `n[01,07-15],m3`."""
  prefix, first = re.match(r"([^,\[]*)(?:\[([^\],-]*))?", nodes).groups("")
  require(
    bool(prefix + first),
    f"SLURM_STEP_NODELIST={nodes!r} contains no node; start with srun, or "
    f"{_ALONE}",
  )
  return prefix + first


def _gke(environ: Environ) -> Cluster:
  hosts = _tpu_hosts(environ)
  if not _wants_tpu(environ) or not hosts:
    return SINGLE
  slices = _number(environ, "MEGASCALE_NUM_SLICES", low=1, default=1)
  if len(hosts) * slices == 1:
    return SINGLE
  worker = _number(environ, "TPU_WORKER_ID", low=0, high=len(hosts))
  index, first = 0, hosts[0]
  if slices > 1:
    index = _number(environ, "MEGASCALE_SLICE_ID", low=0, high=slices)
    first = _text(environ, "MEGASCALE_COORDINATOR_ADDRESS")
  count = len(hosts) * slices
  port = environ.get("JAX_COORDINATOR_PORT", _TPU_PORT)
  return Cluster(
    "gke", f"{first.split(':')[0]}:{port}", count, worker + index * len(hosts)
  )


def _cloud_tpu(environ: Environ) -> Cluster:
  """Detects a Cloud TPU machine, where JAX asks the metadata server."""
  # At import, JAX sets TPU_ML_PLATFORM if it finds TPU chips and otherwise
  # TPU_SKIP_MDS_QUERY. Users set the latter if there is no metadata server.
  has_chips = "TPU_ML_PLATFORM" in environ
  if not has_chips or "TPU_SKIP_MDS_QUERY" in environ:
    return SINGLE
  if not _wants_tpu(environ) or _tpu_hosts(environ):
    return SINGLE
  return Cluster("cloud_tpu", None, None, None)


def _tpu_hosts(environ: Environ) -> list[str]:
  """Returns the hosts of this slice as listed by Kubernetes."""
  listed = environ.get("TPU_PROCESS_ADDRESSES") or environ.get(
    "TPU_WORKER_HOSTNAMES", ""
  )
  # Without TPUs, libtpu sets the variable to a sentence.
  if " " in listed.strip():
    return []
  return [host for host in listed.strip().split(",") if host]


def _wants_tpu(environ: Environ) -> bool:
  platforms = environ.get("JAX_PLATFORMS", "")
  return not platforms or "tpu" in platforms.split(",")


def _text(environ: Environ, name: str) -> str:
  require(
    bool(environ.get(name)),
    f"{name} is not set, but other variables describe several processes; set "
    f"it, or {_ALONE}",
  )
  return environ[name]


def _number(
  environ: Environ,
  name: str,
  *,
  low: int,
  high: int | None = None,
  default: int | None = None,
) -> int:
  """Returns a variable as an integer in [low, high)."""
  if default is not None and not environ.get(name):
    return default
  text = _text(environ, name)
  limit = f"from {low}" if high is None else f"from {low} to {high - 1}"
  try:
    value = int(text)
  except ValueError:
    value = None
  if value is None or value < low or (high is not None and value >= high):
    raise SpecError(
      f"{name}={text} must be a whole number {limit}; correct it, or {_ALONE}"
    )
  return value
