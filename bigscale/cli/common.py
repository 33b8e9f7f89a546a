"""Flags and checkpoint loading shared by several commands."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigscale.cli.flags import Flags
from bigscale.spec import RunSpec, SpecError

# Help text of --where.
CONDITION = (
  "Use only rows that match a condition: COLUMN=VALUE (or !=, <, <=, >, >=), "
  "or COLUMN~WORD if the cell is a list of words. All conditions must hold."
)


def part_of(text: str) -> tuple[int, int]:
  """Parses K/N and returns K and N.

  Raises:
    SpecError: the text is not K/N with K from 1 to N.
  """
  share, _, parts = text.partition("/")
  good = share.isdecimal() and parts.isdecimal()
  if not (good and 1 <= int(share) <= int(parts)):
    raise SpecError(f"--part={text} must be K/N with K from 1 to N, like 1/2")
  return int(share), int(parts)


def share_compiled_programs(folder: os.PathLike[str]) -> None:
  """Shares compiled programs between processes and with the next start."""
  import jax

  jax.config.update("jax_compilation_cache_dir", str(folder))


def define_process_flags(values: Flags) -> None:
  """Defines the flags that `join_processes` reads."""
  values.heading("Several processes (detected on Cloud TPU, GKE and SLURM)")
  values.string(
    "coordinator",
    None,
    "Address of process 0, HOST:PORT. Default: $BIGSCALE_COORDINATOR.",
  )
  values.integer(
    "num_processes",
    None,
    "Number of processes. Default: $BIGSCALE_NUM_PROCESSES. With 1, this "
    "process runs alone, even under a scheduler.",
  )
  values.integer(
    "process_id",
    None,
    "Index of this process, from 0. Default: $BIGSCALE_PROCESS_ID.",
  )


def join_processes(values: Flags) -> None:
  """Connects to the run's other processes. Call it before any computation.

  Raises:
    SpecError: the flags and the environment contradict each other.
  """
  from bigscale.parallel import multihost

  multihost.initialize(
    coordinator=values.coordinator,
    num_processes=values.num_processes,
    process_id=values.process_id,
  )


class Trained(NamedTuple):
  """A restored checkpoint, ready to sample from.

  Attributes:
    spec: spec of the run.
    built: the run's functions, built for one device.
    step: step of the checkpoint.
    ema: moving average of G.
    path: folder of the run (`etils.epath.Path`).
    d: trained weights of D (`train.state.Average`), or None if not requested.
    imported: notes of `bigscale import` about the weights. {} for weights that
      were trained here.
    stream: state of the run's data stream.
  """

  spec: RunSpec
  built: Any
  step: int
  ema: Any
  path: Any
  d: Any = None
  imported: Mapping[str, Any] = {}
  stream: Any = None


def load(
  workdir: str, step: int | None, *, discriminator: bool = False
) -> Trained:
  """Restores a checkpoint of a run onto one local device.

  Args:
    workdir: folder of the run.
    step: step of the checkpoint. None restores the newest.
    discriminator: whether to return D in addition to the average of G.

  Raises:
    SpecError: the run or the checkpoint does not exist.
  """
  import dataclasses

  from bigscale.parallel.mesh import make_mesh
  from bigscale.spec import MeshSpec
  from bigscale.train import folder as folders
  from bigscale.train.build import build
  from bigscale.train.checkpoint import CheckpointReader
  from bigscale.train.state import average_of

  folder, spec = folders.open_existing(workdir)
  # One device is enough for sampling, and it divides any batch.
  import jax

  built = build(
    dataclasses.replace(spec, mesh=MeshSpec()),
    make_mesh(MeshSpec(), jax.local_devices()[:1]),
  )
  if not folder.has_steps():
    raise SpecError(
      f"{folder.path} has no checkpoint yet; train until the first is saved"
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
  """Defines --data, which `DataSpec.at` reads."""
  values.multi_string(
    "data",
    [],
    "New location of the run's data, if it has moved since the config was "
    "written. For a mixture, give one location per source in order, or "
    "--data=OLD=NEW for each source that has moved. The content must be the "
    "data that the run has read.",
  )
