"""What differs between one process and many.

With one process everything here is free and does what its name says. With
many, process 0 alone writes files and decides; the others are told.

Processes talk in two ways. Arrays go through collectives between devices.
Decisions, which may take as long as an evaluation, go through JAX's
coordination service on process 0: a collective would time out on CPUs. Every
process must make the same calls in the same order.
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
# That process 0 outlives others that leave with it.
_LAST_SECONDS = 1.0
# An evaluation on CPUs takes hours; a process that dies is noticed apart from
# this, by its missing heartbeat.
_DECISION_SECONDS = 24 * 3600

# How jax.distributed calls those who know the processes.
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
  """Joins the other processes of this run, if there are any.

  Call it once, before anything is computed. JAX aborts the process, without
  an exception, where the others do not come in time ($BIGSCALE_START_TIMEOUT
  seconds, 300 by default); so a line on stderr says who is waited for.

  Args:
    coordinator: HOST:PORT of process 0; each argument stands before its
      variable, see `cluster.detect`.
    num_processes: of the run.
    process_id: of this one.

  Raises:
    SpecError: the environment contradicts itself, or the port is taken.
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
    # Whatever asking a metadata server or resolving a name can end in.
    raise SpecError(
      f"the processes of this run could not meet ({cluster.kind}: {error}); "
      f"name them by {clusters.COORDINATOR}, {clusters.NUM_PROCESSES} and "
      f"{clusters.PROCESS_ID}, or set {clusters.NUM_PROCESSES}=1"
    ) from error
  watch().start()
  return cluster


@functools.cache
def watch() -> Watch:
  """What this process is at, and its eye on the others."""
  if jax.process_count() == 1:
    return Watch()
  return Watch(_client(), jax.process_index(), jax.process_count())


def is_main() -> bool:
  """Whether this process writes files and prints."""
  return jax.process_index() == 0


def decide(name: str, choose: Callable[[], T]) -> T:
  """Process 0 chooses, and all get what it chose.

  Args:
    name: of the decision, for error messages.
    choose: called by process 0 alone; may take hours, but must not wait for
      the others. Returns plain JSON.

  Raises:
    SpecError: `choose` raised one; all processes raise it.
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
  """Process 0's arrays, as numpy arrays on every process.

  Args:
    tree: numbers and small arrays, of equal shapes and dtypes on all
      processes. For anything else see `decide`.
  """
  return multihost_utils.broadcast_one_to_all(tree)


def barrier(name: str, timeout_seconds: float = _DECISION_SECONDS) -> None:
  """Waits for all processes.

  Args:
    name: of the place, for error messages.
    timeout_seconds: after which it raises.

  Raises:
    jax.errors.JaxRuntimeError: a process did not come.
  """
  if jax.process_count() > 1:
    _client().wait_at_barrier(_next_key(name), int(timeout_seconds * 1000))


def gather(name: str, items: Sequence[Any]) -> list[Any]:
  """What any process has to tell, on process 0.

  Args:
    name: of what is told.
    items: of this process, plain JSON; none cost no message but the barrier.

  Returns:
    The items of all processes in their order; [] on the others.
  """
  if jax.process_count() == 1:
    return list(items)
  client, key = _client(), _next_key(name)
  if items:
    # Keys are told in the order of their text.
    place = f"{key}/{jax.process_index():08d}"
    client.key_value_set(place, json.dumps(list(items)))
  barrier(name)
  if not is_main():
    return []
  told = sorted(client.key_value_dir_get(f"{key}/"))
  return [item for _, text in told for item in json.loads(text)]


def all_true(name: str, mine: bool) -> bool:
  """Whether it is true on every process.

  Args:
    name: of what is asked.
    mine: this process's answer.
  """
  doubts = gather(name, [] if mine else [jax.process_index()])
  return decide(name, lambda: not doubts)


def assert_same(name: str, values: dict[str, Any]) -> None:
  """Checks that all processes hold the same.

  Args:
    name: of what is compared, for the message.
    values: plain JSON, nested or not.

  Raises:
    SpecError: on every process, naming the first entries that differ between
      process 0 and another.
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
        f"the processes do not agree on {name}:\n"
        + "\n".join(different[:10])
        + "\nStart all of them with the same command, files and versions.",
      )

  decide(name, compare)


# In what Gloo, which carries messages between CPU processes, says of one that
# is longer than what was waited for.
_MIXED_UP = "op.preamble.length <= op.nbytes"
_MIXED_UP_NOTE = (
  "bigscale: a process received a message of another size than it waited for: "
  "two processes sent their messages in different orders, which they must not "
  '(docs/reference/mesh.md, "Between CPU processes"). Start the command again: '
  "it resumes from the last checkpoint. If it ends here again, use one process "
  "with --virtual_devices=N for as many devices, which pairs messages by name, "
  "and report the config."
)


def fail(error: Exception) -> int:
  """Tells the other processes that this one cannot go on: its exit code.

  To be called where an exception is met, before anything is closed: to close
  is to wait for the others, who wait for this process. It then has some
  seconds to end by itself. Called again, it says the same.

  Args:
    error: what was raised. Talking to a process that was killed fails with an
      exception of JAX's, which is no bug of who gets it.

  Returns:
    2 of bad input; 76 where another process is gone; its code where another
    failed first; else 1.
  """
  if _MIXED_UP in str(error):
    error.add_note(_MIXED_UP_NOTE)
  if not jax.distributed.is_initialized():
    return USAGE if isinstance(error, SpecError) else BUG
  return watch().fail(
    error,
    USAGE if isinstance(error, SpecError) else BUG,
    is_talk=isinstance(error, jax.errors.JaxRuntimeError),
  )


@contextlib.contextmanager
def watched(
  limits: Mapping[str, float], common: tuple[type[Exception], ...]
) -> Iterator[None]:
  """Ends all processes where one hangs or fails in here.

  Args:
    limits: seconds that phases may take, see `Watch.limited`.
    common: exceptions that all processes come to.
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
  """Ends a process of many that failed, with its exit code.

  Leaving as usual would wait for the others, who wait for this one, and end
  in an abort minutes later, whose code says nothing. The first to go must not
  cut the others short: with process 0 the coordinator goes, and JAX aborts who
  is left.
  """
  if code and jax.distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    seconds = watch().farewell_seconds
    with contextlib.suppress(Exception):
      _client().wait_at_barrier("bigscale/leave", int(seconds * 1000))
      if jax.process_index() == 0:
        # They are through the barrier, but not yet gone.
        time.sleep(_LAST_SECONDS)
    os._exit(code)


def _waiting(cluster: Cluster, seconds: int) -> str:
  if cluster.num_processes is None:
    return (
      "bigscale: asking the Cloud TPU metadata server who else is in this "
      f"slice, and waiting for them up to {seconds} s"
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
    f"{variable}={text} must be a whole number of seconds from 1",
  )
  return int(text)


def _check_port(address: str) -> None:
  """JAX dies by a signal where the port is in use."""
  port = int(address.rpartition(":")[2])
  dual = socket.has_dualstack_ipv6()
  family = socket.AF_INET6 if dual else socket.AF_INET
  try:
    socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
  except OSError as error:
    raise SpecError(
      f"port {port} of the coordinator {address} cannot be used here "
      f"({error.strerror}); choose another port, the same for all processes"
    ) from error


def _client() -> Any:
  # Public JAX offers collectives only; Orbax takes the client from here, too.
  from jax._src import distributed

  return distributed.global_state.client


_counts: collections.Counter[str] = collections.Counter()


def _next_key(name: str) -> str:
  """A key that is used once, equal on all processes."""
  _counts[name] += 1
  return f"bigscale/{name}/{_counts[name]}"


def _flat(values: Any, path: str = "") -> dict[str, Any]:
  """Nested mappings as {"a.b": value}."""
  if not isinstance(values, dict):
    return {path: values}
  flat = {}
  for key, value in values.items():
    flat |= _flat(value, f"{path}.{key}" if path else key)
  return flat
