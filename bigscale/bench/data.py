"""Throughput of a run's own stream of images, beside reading alone.

The stream is what `data.pipeline.make` makes of the spec, so that what is
measured is what trains. Its bound is the same records read one after another on
one thread, with no order, no fitting and no batches.
"""

import dataclasses
import itertools
import resource
import statistics
import time

import numpy as np

from bigscale.data import pipeline
from bigscale.data.reading import open_mix
from bigscale.spec import RunSpec, require

_WARM_UP = 3
_BOUND_RECORDS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataTiming:
  """What a stream costs.

  Attributes:
    images_per_second: of this process, by the median of all steps' batches.
    processor_us_per_image: processor time of an image, all threads together.
    start_seconds: until the first batch was there.
    read_images_per_second: records read and decoded on one thread.
    readers: of the stream: how many threads or processes.
    peak_rss_gib: memory of this process, at its peak.
  """

  images_per_second: float
  processor_us_per_image: float
  start_seconds: float
  read_images_per_second: float
  readers: str
  peak_rss_gib: float

  def __str__(self) -> str:
    rows = {
      "images": f"{self.images_per_second:.0f} /s",
      "processor": f"{self.processor_us_per_image:.1f} us an image",
      "start": f"{1e3 * self.start_seconds:.0f} ms to the first batch",
      "reading": f"{self.read_images_per_second:.0f} /s on one thread, alone",
      "readers": self.readers,
      "peak memory": f"{self.peak_rss_gib:.2f} GiB",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows.items())


def measure(spec: RunSpec, steps: int) -> DataTiming:
  """Reads the batches of some steps, and times them.

  Args:
    spec: of the run; this process reads whole batches.
    steps: to time, after some to warm up.

  Raises:
    SpecError: no steps to time, or the data cannot be read.
  """
  require(steps >= 1, f"steps={steps} must be 1 or more")
  start = time.perf_counter()
  stream = pipeline.make(
    spec.data,
    resolution=spec.model.resolution,
    channels=spec.model.image_channels,
    num_classes=spec.model.num_classes,
    global_batch_size=spec.global_batch_size,
    batches_per_step=spec.batches_per_step,
    seed=spec.seed,
  )
  try:
    next(stream)
    started = time.perf_counter() - start
    for _ in itertools.islice(stream, _WARM_UP + spec.data.prefetch):
      pass
    busy, clock, seconds = time.process_time(), time.perf_counter(), []
    for _ in itertools.islice(stream, steps):
      now = time.perf_counter()
      seconds.append(now - clock)
      clock = now
    busy = time.process_time() - busy
  finally:
    stream.close()
  images = spec.global_batch_size * spec.batches_per_step
  return DataTiming(
    images_per_second=images / statistics.median(seconds),
    processor_us_per_image=1e6 * busy / (steps * images),
    start_seconds=started,
    read_images_per_second=_read_alone(spec),
    readers=stream.readers,
    peak_rss_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
  )


def _read_alone(spec: RunSpec) -> float:
  """Images a second of the first source, on this thread."""
  source = open_mix(spec.data, "train").sources[0]
  random = np.random.default_rng(0)
  indices = random.integers(0, len(source), _BOUND_RECORDS).tolist()
  source.read(indices[0])
  start = time.perf_counter()
  for index in indices:
    source.read(index)
  return _BOUND_RECORDS / (time.perf_counter() - start)
