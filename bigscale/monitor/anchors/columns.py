"""The columns of a trace that the comparisons with the anchor write.

`anchor/data/NAME`, `anchor/tensors/NAME`: evidence of a change, in nats.
`anchor/slight/NAME`: evidence that never suffices for a rollback.
`anchor/size/NAME`: size of the change. `anchor/fakes/NAME`: statistics of
samples, which the verdict compares with their own past.
"""

import math

from bigscale.monitor.anchors.data import DataAnchor, Described, Shift
from bigscale.monitor.anchors.tensors import Found

# Evidence of a change that chance cannot cause, in nats.
CERTAIN = 100.0
# Number of consecutive batches of the stream that must look like the anchor,
# and the acceptable rate of false results of this test.
TRIALS, _TRIAL_RATE = 4, 1e-4


def of_shift(name: str, shift: Shift) -> dict[str, float]:
  """Returns the columns of a comparison of data."""
  return {
    f"anchor/data/{name}": shift.surprise,
    f"anchor/size/{name}": shift.size,
  }


def of_change(share: float) -> dict[str, float]:
  """Returns the columns of anchor images that differ from earlier ones.

  No rollback helps against other images, so the evidence only warns.
  """
  return {
    "anchor/slight/source": CERTAIN * (share > 0),
    "anchor/size/source": share,
  }


def of_tensors(name: str, found: Found) -> dict[str, float]:
  """Returns the columns of a check of tensors.

  The size of an average that does not follow G is 1, because every tensor of it
  matters. Tensors that went astray may be healthy.
  """
  share = found.wrong / max(found.judged, 1)
  size = float(found.wrong > 0) if name == "average" else share
  kind = "slight" if name == "astray" else "tensors"
  return {
    f"anchor/{kind}/{name}": CERTAIN * (found.wrong > 0),
    f"anchor/size/{name}": size,
  }


def trial(data: DataAnchor, images: Described, count: int) -> str:
  """Compares consecutive images of the stream with the anchor.

  Args:
    data: the anchor.
    images: measurements of a multiple of `count` images.
    count: number of images of a batch.

  Returns:
    Why batches of the stream are not random samples of the data; "" if they
    are.
  """
  tests = [name for name in data.tests if name != "repeats"]
  limit = math.log(TRIALS * len(tests) / _TRIAL_RATE)
  for start in range(0, len(images.labels), count):
    found = data.look(images.rows(start, start + count), ())
    most, name = max((found[name].surprise, name) for name in tests)
    if most > limit:
      return (
        "consecutive images of the data are not a random sample of it (chance "
        f"places their {name} as far from the anchor once in e^{most:.0f} "
        "batches); shuffle the records of the shards, or raise "
        "data.shuffle_files"
      )
  return ""
