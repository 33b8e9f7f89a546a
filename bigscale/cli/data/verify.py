"""Read every image of a data set and list the faults.

Example:
  bigscale data verify SET

Accepts every input that `data build` accepts. The exit code is 2 if there is a
fault.
"""

import os

from bigscale.cli.data.progress import progress_bar
from bigscale.cli.flags import Flags
from bigscale.data.shown import shown

FLAGS = Flags()
FLAGS.integer(
  "workers",
  os.cpu_count() or 1,
  "Number of processes. Each reads one shard at a time.",
)


def run(path: str = "") -> int:
  """Reads every image and prints whether there are faults."""
  from bigscale.data.verify import verify
  from bigscale.spec import SpecError, require

  require(bool(path), "data verify needs a path: bigscale data verify PATH")
  with progress_bar() as progress:
    faults = verify(path, FLAGS.workers, progress)
  if faults:
    raise SpecError(
      "\n".join([f"{shown(path)} has faults:", *map(shown, faults)])
    )
  print(f"{shown(path)} has no faults")
  return 0
