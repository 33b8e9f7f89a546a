"""Images that come more than once, found by digests of their pixels.

A pass of its own before the set is written, in parallel and as resumable as
the writing. It keeps 8 bytes a record, and some 40 while it compares them.
"""

import os

import numpy as np

from bigscale.data import recipe
from bigscale.data.manifest import Split
from bigscale.data.parts import Job, Part, PartMaker, Rejected, Task
from bigscale.data.recipe import Reject

# An image in both splits is kept in the first of these: what is held out is
# often somebody's test set, to be left whole.
_ORDER: tuple[Split, ...] = ("heldout", "train")


def distinct(job: Job, parts: PartMaker) -> dict[Split, np.ndarray]:
  """Finds the records to keep: of those with the same pixels the first.

  Args:
    job: of the build.
    parts: does the work, and is told of the duplicates and rejects.

  Returns:
    Of every split the indices to keep, [N] int64, rising.
  """
  splits = [split for split in _ORDER if split in job.inputs]
  tasks = [task for split in splits for task in _tasks(job, split)]
  scanned = parts.run(scan, job, tasks)
  digests, usable = [], []
  for task, part in zip(tasks, scanned, strict=True):
    digests.append(np.load(os.path.join(job.directory, part.file)))
    usable.append(np.ones(len(task.indices), bool))
    for reject in part.rejects:
      usable[-1][reject.index - int(task.indices[0])] = False
  first = _first(np.concatenate(digests), np.concatenate(usable))
  kept, start = {}, 0
  for split in splits:
    end = start + len(job.inputs[split])
    kept[split] = np.flatnonzero(first[start:end])
    of_split = sum(
      int(mask.sum())
      for task, mask in zip(tasks, usable, strict=True)
      if task.split == split
    )
    parts.duplicates[split] = of_split - len(kept[split])
    start = end
  return kept


def _tasks(job: Job, split: Split) -> list[Task]:
  records, step = len(job.inputs[split]), job.options.records_per_shard
  return [
    Task(
      split,
      f"scan-{split}-{start // step:05d}.npy",
      np.arange(start, min(start + step, records)),
    )
    for start in range(0, records, step)
  ]


def _first(digests: np.ndarray, usable: np.ndarray) -> np.ndarray:
  """Marks what is usable and the first of its digest: [N] bool."""
  positions = np.flatnonzero(usable)
  _, first = np.unique(digests[positions], return_index=True)
  mask = np.zeros(len(digests), bool)
  mask[positions[first]] = True
  return mask


def scan(job: Job, task: Task) -> Part:
  """Writes the digests of a task's records, 0 for those that are rejected."""
  source, rejects = job.inputs[task.split], []
  digests = np.zeros(len(task.indices), np.uint64)
  for place, index in enumerate(task.indices.tolist()):
    try:
      image = recipe.load(source, index, job.options, job.schema).image
      digests[place] = recipe.digest(image)
    except Reject as reject:
      rejects.append(Rejected(index, reject.reason, reject.where))
  with open(task.partial(job.directory), "wb") as file:
    np.save(file, digests)
  return task.finish(job.directory, len(digests), rejects)
