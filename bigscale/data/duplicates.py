"""Finds duplicate images by digests of their pixels.

This pass runs before the data set is written, and is equally parallel and
resumable. It keeps 8 bytes per record, and about 40 while it compares digests.
"""

import os

import numpy as np

from bigscale.data import recipe
from bigscale.data.manifest import Split
from bigscale.data.parts import Job, Part, PartMaker, Rejected, Task
from bigscale.data.recipe import Reject

# An image in both splits is kept in the first of these. The held-out split is
# often a published test set, which should stay complete.
_ORDER: tuple[Split, ...] = ("heldout", "train")


def distinct(job: Job, parts: PartMaker) -> dict[Split, np.ndarray]:
  """Finds the first record of each set of records with the same pixels.

  Args:
    job: the build.
    parts: runs the tasks, and receives the number of duplicates.

  Returns:
    Indices to keep for each split, [N] int64, ascending.
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
  """Marks the first usable record of each digest: [N] bool."""
  positions = np.flatnonzero(usable)
  _, first = np.unique(digests[positions], return_index=True)
  mask = np.zeros(len(digests), bool)
  mask[positions[first]] = True
  return mask


def scan(job: Job, task: Task) -> Part:
  """Writes the digests of a task's records, 0 for rejected records."""
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
