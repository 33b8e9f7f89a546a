"""Communication and decisions in runs with several processes.

With one process, these functions work without any communication. With several,
only process 0 writes files and makes decisions, and it sends the decisions to
the others.

Arrays are sent by collectives between devices. Decisions, which can take as
long as an evaluation, are sent through JAX's coordination service on process 0,
because a collective would time out on CPUs. All processes must make the same
calls in the same order.
"""

import collections
import contextlib
import functools
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.experimental import multihost_utils

from bigscale.parallel import cluster as clusters
from bigscale.parallel.cluster import Cluster
from bigscale.parallel.environment import prepare_cpu
from bigscale.parallel.watch import BUG, USAGE, Watch
from bigscale.spec import SpecError, require
from bigscale.types import PyTree

T = TypeVar("T")

START_TIMEOUT = "BIGSCALE_START_TIMEOUT"
_START_SECONDS = 300
HEARTBEAT_TIMEOUT = "BIGSCALE_HEARTBEAT_TIMEOUT"
_HEARTBEAT_SECONDS = 100
# Extra time before process 0 exits, so that it exits last.
_LAST_SECONDS = 1.0
# Timeout of decisions. An evaluation on CPUs takes hours, and dead processes
# are detected separately by their missing heartbeats.
_DECISION_SECONDS = 24 * 3600

# The `cluster_detection_method` of `jax.distributed` for each kind of cluster.
_METHODS = {
  "explicit": "deactivate",
  "slurm": "slurm",
  "gke": "gketpu",
  "cloud_tpu": "gcetpu",
}


def initialize(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> Cluster:
  """Connects to the other processes of this run, if there are any.

  Call this once, before any computation. If a process does not connect within
  $BIGSCALE_START_TIMEOUT seconds (300 by default), JAX aborts this process
  without an exception. Therefore, a line on stderr says what it waits for.

  Args:
    coordinator: HOST:PORT of process 0; each argument overrides its environment
      variable, see `cluster.detect`.
    num_processes: number of processes.
    process_id: index of this process.

  Returns:
    The detected cluster.

  Raises:
    SpecError: if the environment is inconsistent, the port is in use, or the
      processes cannot connect.
  """
  prepare_cpu()
  cluster = clusters.detect(
    os.environ,
    coordinator=coordinator,
    num_processes=num_processes,
    process_id=process_id,
  )
  if cluster.kind == "single" or jax.distributed.is_initialized():
    return cluster
  seconds = _seconds(START_TIMEOUT, _START_SECONDS)
  if cluster.process_id == 0 and cluster.coordinator:
    _check_port(cluster.coordinator)
  print(_waiting(cluster, seconds), file=sys.stderr, flush=True)
  arguments = {}
  if cluster.kind == "explicit":
    arguments = {
      "coordinator_address": cluster.coordinator,
      "num_processes": cluster.num_processes,
      "process_id": cluster.process_id,
    }
  try:
    jax.distributed.initialize(
      cluster_detection_method=_METHODS[cluster.kind],
      initialization_timeout=seconds,
      heartbeat_timeout_seconds=_seconds(HEARTBEAT_TIMEOUT, _HEARTBEAT_SECONDS),
      **arguments,
    )
  except Exception as error:
    # Metadata servers and name resolution can raise any exception.
    raise SpecError(
      f"cannot connect to the other processes ({cluster.kind}: {error}); "
      f"set {clusters.COORDINATOR}, {clusters.NUM_PROCESSES} and "
      f"{clusters.PROCESS_ID}, or set {clusters.NUM_PROCESSES}=1"
    ) from error
  watch().start()
  return cluster


@functools.cache
def watch() -> Watch:
  """Returns the watchdog of this process."""
  if jax.process_count() == 1:
    return Watch()
  return Watch(_client(), jax.process_index(), jax.process_count())


def is_main() -> bool:
  """Returns whether this process writes files and prints."""
  return jax.process_index() == 0


def decide(name: str, choose: Callable[[], T]) -> T:
  """Calls `choose` on process 0 and returns its result on all processes.

  Args:
    name: name of the decision, for error messages.
    choose: function called only on process 0. It may take hours but must not
      wait for other processes. It returns plain JSON.

  Raises:
    SpecError: if `choose` raises it; on all processes.
  """
  if jax.process_count() == 1:
    return choose()
  client, key = _client(), _next_key(name)
  if not is_main():
    answer = json.loads(
      client.blocking_key_value_get(key, _DECISION_SECONDS * 1000)
    )
    if "error" in answer:
      raise SpecError(answer["error"])
    return answer["value"]
  try:
    answer = {"value": choose()}
  except SpecError as error:
    client.key_value_set(key, json.dumps({"error": str(error)}))
    raise
  client.key_value_set(key, json.dumps(answer))
  return answer["value"]


def broadcast(tree: PyTree) -> PyTree:
  """Returns process 0's arrays as numpy arrays on every process.

  Args:
    tree: numbers and small arrays with equal shapes and dtypes on all
      processes. For other values, use `decide`.
  """
  return multihost_utils.broadcast_one_to_all(tree)


def barrier(name: str, timeout_seconds: float = _DECISION_SECONDS) -> None:
  """Waits for all processes.

  Args:
    name: name of the barrier, for error messages.
    timeout_seconds: maximum seconds to wait.

  Raises:
    jax.errors.JaxRuntimeError: if a process does not arrive in time.
  """
  if jax.process_count() > 1:
    _client().wait_at_barrier(_next_key(name), int(timeout_seconds * 1000))


def gather(name: str, items: Sequence[Any]) -> list[Any]:
  """Collects items of all processes on process 0.

  Args:
    name: name of the items.
    items: items of this process, plain JSON. An empty list costs only the
      barrier.

  Returns:
    All items in the order of processes on process 0; [] on the others.
  """
  if jax.process_count() == 1:
    return list(items)
  client, key = _client(), _next_key(name)
  if items:
    # Padded, because keys are sorted as text.
    own_key = f"{key}/{jax.process_index():08d}"
    client.key_value_set(own_key, json.dumps(list(items)))
  barrier(name)
  if not is_main():
    return []
  entries = sorted(client.key_value_dir_get(f"{key}/"))
  return [item for _, text in entries for item in json.loads(text)]


def all_true(name: str, mine: bool) -> bool:
  """Returns whether a value is true on every process.

  Args:
    name: name of the value.
    mine: value of this process.
  """
  false_on = gather(name, [] if mine else [jax.process_index()])
  return decide(name, lambda: not false_on)


def assert_same(name: str, values: dict[str, Any]) -> None:
  """Checks that all processes have the same values.

  Args:
    name: name of the values, for the error message.
    values: plain JSON, which may be nested.

  Raises:
    SpecError: if values differ; on every process, with the first entries that
      differ between process 0 and another process.
  """
  if jax.process_count() == 1:
    return
  client, key = _client(), _next_key(f"same/{name}")
  index = jax.process_index()
  client.key_value_set(f"{key}/{index}", json.dumps(values, sort_keys=True))

  def compare() -> None:
    mine = _flat(json.loads(json.dumps(values)))
    for other in range(1, jax.process_count()):
      text = client.blocking_key_value_get(
        f"{key}/{other}", _DECISION_SECONDS * 1000
      )
      theirs = _flat(json.loads(text))
      different = [
        f"  {path}: {mine.get(path)!r} on process 0, {theirs.get(path)!r} on "
        f"process {other}"
        for path in sorted(mine.keys() | theirs.keys())
        if mine.get(path) != theirs.get(path)
      ]
      require(
        not different,
        f"the processes have different values of {name}:\n"
        + "\n".join(different[:10])
        + "\nStart all of them with the same command, files and versions.",
      )

  decide(name, compare)


# Part of Gloo's error message for a message that is longer than expected. Gloo
# sends messages between CPU processes.
_MIXED_UP = "op.preamble.length <= op.nbytes"
_MIXED_UP_NOTE = (
  "bigscale: a process received a message of an unexpected size, because two "
  "processes sent their messages in different orders "
  '(docs/reference/mesh.md, "Between CPU processes"). Start the command again: '
  "it resumes from the last checkpoint. If this error repeats, use one process "
  "with --virtual_devices=N, which matches messages by name, and report the "
  "config."
)


def fail(error: Exception) -> int:
  """Reports an error to the other processes and returns the exit code.

  Call this where an exception is caught, before closing anything: closing waits
  for the other processes, which wait for this one. This process then has some
  seconds to end by itself. A second call for the same error returns the same
  code.

  Args:
    error: exception. Communication with a killed process raises a JAX
      exception, which is not a bug of this process.

  Returns:
    2 for invalid input; 76 if another process is dead; the exit code of another
    process if it failed first; otherwise 1.
  """
  if _MIXED_UP in str(error):
    error.add_note(_MIXED_UP_NOTE)
  if not jax.distributed.is_initialized():
    return USAGE if isinstance(error, SpecError) else BUG
  return watch().fail(
    error,
    USAGE if isinstance(error, SpecError) else BUG,
    may_be_remote=isinstance(error, jax.errors.JaxRuntimeError),
  )


@contextlib.contextmanager
def watched(
  limits: Mapping[str, float], common: tuple[type[Exception], ...]
) -> Iterator[None]:
  """Ends all processes if one hangs or fails inside this context.

  Args:
    limits: maximum seconds by phase, see `Watch.limited`.
    common: exceptions that all processes raise together.
  """
  try:
    with watch().limited(limits):
      yield
  except common:
    raise
  except Exception as error:
    fail(error)
    raise


def leave(code: int) -> None:
  """Exits a failed process of a multiprocess run with its exit code.

  A normal exit would wait for the other processes, which wait for this one, and
  would be aborted minutes later with a meaningless code. The coordinator ends
  with process 0, and JAX then aborts all remaining processes. Therefore,
  process 0 exits last.
  """
  if code and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    seconds = watch().farewell_seconds
    with contextlib.suppress(Exception):
      _client().wait_at_barrier("bigscale/leave", int(seconds * 1000))
      if jax.process_index() == 0:
        # The other processes have passed the barrier but may still be exiting.
        time.sleep(_LAST_SECONDS)
    os._exit(code)


def _waiting(cluster: Cluster, seconds: int) -> str:
  if cluster.num_processes is None:
    return (
      "bigscale: asking the Cloud TPU metadata server for the other processes "
      f"of this slice, and waiting up to {seconds} s for them"
    )
  return (
    f"bigscale: process {cluster.process_id} of {cluster.num_processes} "
    f"({cluster.kind}) waits up to {seconds} s for the others at "
    f"{cluster.coordinator}"
  )


def _seconds(variable: str, usual: int) -> int:
  text = os.environ.get(variable, str(usual))
  require(
    text.isdecimal() and int(text) > 0,
    f"{variable}={text} must be a whole number of seconds, at least 1",
  )
  return int(text)


def _check_port(address: str) -> None:
  """Raises if the port is in use, in which case JAX would be aborted."""
  port = int(address.rpartition(":")[2])
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
  except OSError as error:
    raise SpecError(
      f"cannot use port {port} of the coordinator {address} "
      f"({error.strerror}); choose another port for all processes"
    ) from error


def _client() -> Any:
  # JAX has no public API for this client; Orbax also gets it here.
  from jax._src import distributed

  return distributed.global_state.client


_counts: collections.Counter[str] = collections.Counter()


def _next_key(name: str) -> str:
  """Returns a key that is used once and is equal on all processes."""
  _counts[name] += 1
  return f"bigscale/{name}/{_counts[name]}"


def _flat(values: Any, path: str = "") -> dict[str, Any]:
  """Flattens nested mappings to {"a.b": value}."""
  if not isinstance(values, dict):
    return {path: values}
  flat = {}
  for key, value in values.items():
    flat |= _flat(value, f"{path}.{key}" if path else key)
  return flat
