"""This process's share of the real images of a run."""

import functools

import jax

from bigscale.data import pipeline
from bigscale.data.heldout import Heldout
from bigscale.data.stream import Stream
from bigscale.parallel import multihost, rows
from bigscale.parallel.sharding import batch_sharding
from bigscale.train.build import Built


def open_stream(built: Built) -> Stream:
  """Opens this process's stream of the run's data."""
  spec = built.spec
  return pipeline.make(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    global_batch_size=spec.global_batch_size,
    batches_per_step=spec.batches_per_step,
    seed=spec.seed,
    rows=rows.local_rows(batch_sharding(built.mesh), spec.global_batch_size),
    processes=jax.process_count(),
    # Files are read for it: one process does, for all.
    decide=functools.partial(multihost.decide, "data identity"),
  )


def open_heldout(built: Built) -> Heldout:
  """Opens this process's share of the reals that D never trains on."""
  spec = built.spec
  count = built.abstract_heldout.images.shape[1]
  return Heldout(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    count=count,
    rows=rows.local_rows(batch_sharding(built.mesh), count),
    seed=spec.seed,
  )
