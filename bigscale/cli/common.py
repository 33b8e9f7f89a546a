"""What commands share: flags of several of them, checkpoints."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigscale.cli.flags import Flags
from bigscale.spec import RunSpec, SpecError


def part_of(text: str) -> tuple[int, int]:
  """K and N of K/N.

  Raises:
    SpecError: it is no part.
  """
  share, _, parts = text.partition("/")
  good = share.isdecimal() and parts.isdecimal()
  if not (good and 1 <= int(share) <= int(parts)):
    raise SpecError(f"--part={text} must be K/N with K from 1 to N, as 1/2")
  return int(share), int(parts)


def define_process_flags(values: Flags) -> None:
  """Defines the flags of a run of several processes, for `join_processes`."""
  values.string(
    "coordinator",
    None,
    "of several processes: HOST:PORT of process 0, or $BIGSCALE_COORDINATOR; "
    "on Cloud TPU, GKE and SLURM none of the three is needed",
  )
  values.integer(
    "num_processes",
    None,
    "how many, or $BIGSCALE_NUM_PROCESSES; 1 asks no scheduler for others",
  )
  values.integer(
    "process_id",
    None,
    "which one this is, from 0, or $BIGSCALE_PROCESS_ID",
  )


def join_processes(values: Flags) -> None:
  """Joins the run's other processes; call it before anything is computed.

  Raises:
    SpecError: the flags or the environment contradict themselves.
  """
  from bigscale.parallel import multihost

  multihost.initialize(
    coordinator=values.coordinator,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )


class Trained(NamedTuple):
  """A checkpoint, ready to sample from.

  `d` is D's weights as they are trained (`train.state.Average`), None where
  they were not asked for. `imported` is what `bigscale import` noted of the
  weights, {} for weights that were trained here. `stream` is the state of the
  run's data stream.
  """

  spec: RunSpec
  built: Any
  step: int
  ema: Any
  path: pathlib.Path
  d: Any = None
  imported: Mapping[str, Any] = {}
  stream: Any = None


def load(
  workdir: str, step: int | None, *, discriminator: bool = False
) -> Trained:
  """Restores a checkpoint of a run onto one device of this process.

  Args:
    workdir: of the run.
    step: None takes the newest.
    discriminator: whether D is kept besides the average of G.

  Raises:
    SpecError: there is no run or no such checkpoint.
  """
  import dataclasses

  from bigscale.parallel.mesh import make_mesh
  from bigscale.spec import MeshSpec
  from bigscale.train import folder as folders
  from bigscale.train.build import build
  from bigscale.train.checkpoint import CheckpointReader
  from bigscale.train.state import average_of

  folder, spec = folders.open_existing(workdir)
  # One device is enough to sample and divides any batch.
  import jax

  built = build(
    dataclasses.replace(spec, mesh=MeshSpec()),
    make_mesh(MeshSpec(), jax.local_devices()[:1]),
  )
  if not (folder.path / "checkpoints").is_dir():
    raise SpecError(
      f"{folder.path} has no checkpoint yet; train until the first one is saved"
    )
  checkpoints = CheckpointReader(folder.path)
  try:
    restored = checkpoints.restore(built.abstract_state, step)
  finally:
    checkpoints.close()
  d = average_of(restored.state.d) if discriminator else None
  return Trained(
    spec,
    built,
    restored.step,
    restored.state.ema,
    folder.path,
    d,
    restored.meta.get("imported", {}),
    restored.data,
  )


def define_data_flag(values: Flags) -> None:
  """Defines the flag of a run whose data have moved, for `DataSpec.at`."""
  values.multi_string(
    "data",
    [],
    "where the run's data are now, if not where the config says; of a mixture "
    "one for each source, in order, or --data=OLD=NEW for those that have "
    "moved. Other data than the run has read are refused",
  )
