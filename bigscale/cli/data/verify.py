"""Read a set, or images as they are, and list what cannot be used.

  bigscale data verify SET

Exits with 2 if there is a fault.
"""

import os

from bigscale.cli.data.progress import progress_bar
from bigscale.cli.flags import Flags
from bigscale.data.shown import shown

FLAGS = Flags()
FLAGS.integer("workers", os.cpu_count() or 1, "processes, each at a shard")


def run(path: str = "") -> int:
  """Reads a set back."""
  from bigscale.data.verify import verify
  from bigscale.spec import SpecError, require

  require(bool(path), "data verify of what? Use: bigscale data verify PATH")
  with progress_bar() as progress:
    faults = verify(path, FLAGS.workers, progress)
  if faults:
    raise SpecError(
      "\n".join([f"{shown(path)} has faults:", *map(shown, faults)])
    )
  print(f"{shown(path)} is sound")
  return 0
