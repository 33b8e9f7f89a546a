"""Operations of several processes, run by `test_processes.py`.

Usage: battery.py DATA FOLDER. Prints one line of JSON.
"""

import functools
import json
import pathlib
import sys

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigscale.data import pipeline
from bigscale.metrics.classifier import train_classifier
from bigscale.metrics.looking import Asked, look
from bigscale.metrics.share import share
from bigscale.parallel import multihost
from bigscale.parallel.mesh import AXES, make_mesh
from bigscale.parallel.rows import local_rows, to_global
from bigscale.parallel.sharding import batch_sharding
from bigscale.sampling import latents
from bigscale.spec import CheckpointSpec, DataSpec, MeshSpec, SpecError
from bigscale.train import notes
from bigscale.train.checkpoint import Checkpoints


def interleaved() -> Mesh:
  """Returns a mesh on which no process's rows are contiguous."""
  devices = np.array(jax.devices()).reshape(jax.process_count(), -1)
  return Mesh(devices.T.reshape(-1, 1), AXES)


def refusal(call) -> str:
  try:
    call()
  except SpecError as error:
    return str(error)
  return "nothing was refused"


def rows_of(mesh: Mesh, source: str) -> list:
  """Returns global batches of labeled images, assembled from all processes."""
  sharding = batch_sharding(mesh)
  stream = pipeline.make(
    DataSpec(source=source, flip=True),
    resolution=8,
    channels=1,
    num_classes=10,
    global_batch_size=16,
    batches_per_step=2,
    seed=3,
    rows=local_rows(sharding, 16),
  )
  batches = []
  for _ in range(2):
    batch = to_global(next(stream), sharding)
    whole = jax.jit(
      lambda x: x,
      out_shardings=NamedSharding(mesh, P()),
    )(batch)
    batches.append(
      [
        np.asarray(whole.labels).tolist(),
        np.asarray(whole.images).sum(axis=(2, 3, 4), dtype=int).tolist(),
      ]
    )
  stream.close()
  return batches


def latents_of(mesh: Mesh) -> list:
  """Draws latents in a program over all devices, as the step does."""
  sharding = NamedSharding(mesh, P(AXES))
  draw = jax.jit(
    lambda step: latents.normal(
      jax.random.fold_in(jax.random.key(0), step), 16, 4, "float32"
    ),
    out_shardings=sharding,
  )
  drawn = process_allgather(draw(5), tiled=True)
  return drawn.tolist()


def looked_at() -> dict:
  """Embeds samples with a classifier that only process 0 has."""
  mesh, asked = make_mesh(MeshSpec()), None
  if multihost.is_main():
    # The classifier depends on data, so other processes cannot rebuild it.
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
    network = train_classifier(images, np.arange(2), 2, seed=3, steps=1)
    asked = Asked((network,), (("fd", "kid"),), 20, 2)
  shared = share(asked, mesh)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (24, 8, 8, 1), np.uint8)
  looked = look(shared, [(images, np.zeros(24, np.int32))])
  (seen,) = looked.seen
  counted = looked.tally.scores(np.ones(2), ("a", "b"), True)
  return {
    "mean": seen.moments.mean.tolist(),
    "covariance": np.diag(seen.moments.covariance).tolist(),
    "kept": len(seen.features),
    "counted": counted,
    "fingerprint": shared.networks[0].fingerprint,
  }


def kept_in(folder: pathlib.Path) -> dict:
  """Checkpoints of two starts, where one process misreads the last one."""
  where = NamedSharding(make_mesh(MeshSpec()), P("data"))
  spec = CheckpointSpec(keep=1, keep_best=1, best="fd_classifier")

  def save(checkpoints: Checkpoints, step: int, score: float) -> None:
    whole = np.full((8, 4), step, np.float32)
    state = {
      "w": jax.make_array_from_callback((8, 4), where, whole.__getitem__)
    }
    checkpoints.save(step, state, {"records_consumed": step}, {})
    checkpoints.set_scores(step, {"fd_classifier": score})

  checkpoints = Checkpoints(folder, spec)
  for step, score in ((1, 1.0), (2, 5.0), (3, 6.0)):
    save(checkpoints, step, score)
  checkpoints.close()
  checkpoints = Checkpoints(folder, spec)
  save(checkpoints, 4, 9.0)
  checkpoints.wait()
  kept = checkpoints.steps()
  unseal = notes.unseal
  if jax.process_index() == jax.process_count() - 1:
    notes.unseal = lambda step, data, meta: unseal(
      step, data | {"records_consumed": step % 4}, meta
    )
  abstract = {"w": jax.ShapeDtypeStruct((8, 4), np.float32, sharding=where)}
  restored = checkpoints.restore(abstract)
  notes.unseal = unseal
  checkpoints.set_damaged_aside(restored.damaged)
  checkpoints.close()
  return {
    "kept": kept,
    "restored": restored.step,
    "damaged": restored.damaged,
    "left": checkpoints.steps(),
    "scores": checkpoints.scores(1),
  }


def main() -> None:
  source, folder = sys.argv[1:]
  multihost.initialize()
  index = jax.process_index()
  told = {
    "processes": jax.process_count(),
    "devices": jax.device_count(),
    "broadcast": float(multihost.broadcast(np.float32(index + 7.5))),
    "decided": multihost.decide("a", lambda: {"from": index, "x": [0.1, None]}),
    "again": multihost.decide("a", lambda: index + 1),
  }

  def fail() -> None:
    raise SpecError(f"process {index} does not like it")

  told["refused"] = refusal(lambda: multihost.decide("b", fail))
  told["gathered"] = [
    multihost.gather("items", [{"from": index}] * (index + 1)),
    # Process 0 has no items, and the last process has one.
    multihost.gather("items", ["late"] if index else []),
    multihost.gather("items", []),
  ]
  multihost.assert_same("equals", {"a": {"b": 1.5, "c": [1, 2]}})
  told["differs"] = refusal(
    lambda: multihost.assert_same("config", {"model": {"width": 64 * index}})
  )
  multihost.barrier("here")
  told["kept"] = kept_in(pathlib.Path(folder))
  told["looked"] = looked_at()
  meshes = (make_mesh(MeshSpec()), interleaved())
  told["rows"] = [rows_of(mesh, source) for mesh in meshes]
  told["latents"] = [latents_of(mesh) for mesh in meshes]
  grid = make_mesh(MeshSpec(fsdp=2, slices=2)).devices
  told["slices"] = [[d.process_index for d in row] for row in grid]
  told["impossible"] = [
    refusal(functools.partial(make_mesh, spec))
    for spec in (
      MeshSpec(fsdp=4, slices=2),
      MeshSpec(slices=4),
      MeshSpec(data=2),
    )
  ]
  multihost.barrier("here")
  print(json.dumps(told))


if __name__ == "__main__":
  main()
