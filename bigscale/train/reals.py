"""Opens this process's share of a run's real images."""

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
    # Process 0 reads the files for the data identity and shares the result.
    decide=functools.partial(multihost.decide, "data identity"),
  )


def open_heldout(built: Built) -> Heldout:
  """Opens this process's share of the held-out reals."""
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
