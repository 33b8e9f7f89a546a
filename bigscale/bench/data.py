"""Measures the throughput of a run's image stream and of reading alone.

The stream is the one that training uses, from `data.pipeline.make`. For
comparison, random records are read one after another on one thread, without
shuffling, resizing or batching.
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
  """Timing of an image stream.

  Attributes:
    images_per_second: throughput of this process, from the median time of a
      step's batches.
    processor_us_per_image: processor time per image over all threads, in
      microseconds.
    start_seconds: seconds until the first batch.
    read_images_per_second: records read and decoded per second on one thread.
    readers: number of threads or processes of the stream, as text.
    peak_rss_gib: peak memory of this process.
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
      "processor": f"{self.processor_us_per_image:.1f} us per image",
      "start": f"{1e3 * self.start_seconds:.0f} ms to the first batch",
      "reading": f"{self.read_images_per_second:.0f} /s alone, on one thread",
      "readers": self.readers,
      "peak memory": f"{self.peak_rss_gib:.2f} GiB",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {what}" for name, what in rows.items())


def measure(spec: RunSpec, steps: int) -> DataTiming:
  """Times the batches of a run's stream.

  Args:
    spec: spec of the run. This process reads whole global batches.
    steps: number of steps to time, after warm-up steps.

  Raises:
    SpecError: `steps` is less than 1, or the data cannot be read.
  """
  require(steps >= 1, f"steps={steps} must be at least 1")
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
  """Returns images per second of the first source, read on this thread."""
  source = open_mix(spec.data, "train").sources[0]
  random = np.random.default_rng(0)
  indices = random.integers(0, len(source), _BOUND_RECORDS).tolist()
  source.read(indices[0])
  start = time.perf_counter()
  for index in indices:
    source.read(index)
  return _BOUND_RECORDS / (time.perf_counter() - start)
