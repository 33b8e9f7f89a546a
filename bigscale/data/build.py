"""Builds a sharded data set from any source, in parallel and resumably.

All shards are planned before the first is written. Their content therefore
depends only on the input and the options, not on the number of workers or on
interruptions. A finished shard has a `.done` file next to it, which is written
last; `build.json` records the inputs and options. The manifest is written at
the end, and a data set without a manifest cannot be opened. Then the helper
files are removed.

Memory: 8 bytes per record, 40 while the records are shuffled, and the images
that are being written.
"""

import collections
import contextlib
import dataclasses
import glob
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.data import hashing, ingest, recipe
from bigscale.data import manifest as manifests
from bigscale.data.duplicates import distinct
from bigscale.data.manifest import DataError, Manifest, Schema, ShardFile, Split
from bigscale.data.parts import Job, Part, PartMaker, Rejected, Task, write_json
from bigscale.data.recipe import BuildOptions, Reject
from bigscale.data.sources import Source, padding_of

REJECTS = "rejects.jsonl"
PLAN, _LOCK = "build.json", "build.lock"
_ORDER = 0x4F524445
_SPLITS: tuple[Split, ...] = ("train", "heldout")

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Result of a build.

  Attributes:
    manifest: manifest of the data set.
    rejects: number of unusable records, listed in `rejects.jsonl`.
    duplicates: number of records removed as duplicates.
    shards_written: number of shards that this call wrote.
    shards_kept: number of shards that an earlier, interrupted call wrote.
  """

  manifest: Manifest
  rejects: int
  duplicates: int
  shards_written: int
  shards_kept: int


def build(
  inputs: Mapping[Split, Source],
  directory: str,
  options: BuildOptions,
  progress: Progress | None = None,
) -> Report:
  """Builds a data set, or resumes an interrupted build.

  Args:
    inputs: source of each split; picklable if there are several workers.
    directory: output directory, created if missing; must not contain a data
      set.
    options: build options. To resume a build, only `workers` and
      `max_bad_fraction` may change.
    progress: called with the number of finished records and the total.

  Raises:
    DataError: a source is empty or conflicts with the options, too many records
      are unusable, the directory contains another data set or a different
      unfinished build, or it cannot be written. Finished shards are kept for
      the next call.
  """
  inputs = {split: inputs[split] for split in _SPLITS if split in inputs}
  options = _with_padding(inputs, options)
  class_names = _class_names(inputs, options)
  plan = plan_of(inputs, options)
  ingest.make_directory(directory)
  with _locked(directory):
    if os.path.exists(os.path.join(directory, manifests.FILE_NAME)):
      return _already_built(directory, plan)
    _begin(directory, plan)
    job = Job(inputs, directory, options, _schema(inputs, options))
    total = sum(len(source) for source in inputs.values())
    parts = PartMaker(
      directory,
      workers=options.workers,
      max_rejects=int(options.max_bad_fraction * total + 1e-9),
      progress=progress or (lambda done, total: None),
    )
    try:
      kept = distinct(job, parts) if options.dedup == "exact" else {}
      tasks = list(_shard_tasks(job, kept))
      written = parts.run(_write_shard, job, tasks)
    finally:
      _write_rejects(directory, inputs, parts.rejects)
    manifest = _manifest(job, class_names, parts, written, plan)
    manifests.save(manifest, directory)
    _remove_helpers(directory)
  return report_of(manifest, parts.new[_write_shard], len(written))


def _with_padding(
  inputs: Mapping[Split, Source], options: BuildOptions
) -> BuildOptions:
  """Sets `padding` to that of the inputs if the options leave it unset."""
  if options.padding is not None:
    return options
  found = {padding_of(source) for source in inputs.values()}
  if len(found) > 1:
    raise DataError(
      f"the inputs have padding {' and '.join(map(str, sorted(found)))}; set "
      "padding to one of these values for both"
    )
  return dataclasses.replace(options, padding=found.pop() if found else 0)


def _class_names(
  inputs: Mapping[Split, Source], options: BuildOptions
) -> tuple[str, ...]:
  if "train" not in inputs:
    raise DataError(f"inputs={sorted(inputs)} has no train split; add one")
  train = inputs["train"].class_names
  for split, source in inputs.items():
    if not len(source):
      raise DataError(f"{source.identity} has no records; use another input")
    names = source.class_names
    # In sets with numbered classes, one split may lack the last classes.
    short = min(len(names), len(train))
    if names[:short] != train[:short] or bool(names) != bool(train):
      raise DataError(
        f"the {split} split has the classes {_some(names)}, but train has "
        f"{_some(train)}; give both the same class folders or labels"
      )
  if options.multilabel and not train:
    raise DataError(
      f"multilabel=True, but {inputs['train'].identity} has no labels; set "
      "multilabel=False, or add labels"
    )
  return max((source.class_names for source in inputs.values()), key=len)


def _some(names: Sequence[str]) -> str:
  return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "(none)"


def plan_of(
  inputs: Mapping[Split, Source], options: BuildOptions
) -> dict[str, Any]:
  """Returns all that determines the bytes of a data set, as JSON values."""
  import PIL
  import simplejpeg

  import bigscale

  return {
    "options": _with_padding(inputs, options).fingerprint,
    "inputs": {split: source.identity for split, source in inputs.items()},
    "made_with": {
      "bigscale": bigscale.__version__,
      "pillow": PIL.__version__,
      "simplejpeg": simplejpeg.__version__,
    },
  }


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
  """Locks the directory against other builds until this process ends."""
  import fcntl

  try:
    file = open(os.path.join(directory, _LOCK), "a")  # noqa: SIM115
  except OSError as error:
    raise DataError(
      f"{directory} cannot be written ({error.strerror}); use another directory"
    ) from error
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise DataError(
        f"another build is writing to {directory}; wait for it, or use "
        "another directory"
      ) from error
    try:
      yield
    finally:
      with contextlib.suppress(FileNotFoundError):
        os.remove(file.name)


def _already_built(directory: str, plan: Mapping[str, Any]) -> Report:
  """Finishes a build that was stopped after it wrote its manifest."""
  path = os.path.join(directory, PLAN)
  if not os.path.exists(path) or changes(_read_plan(path), plan):
    raise ingest.holds_a_set(directory)
  _remove_helpers(directory)
  manifest = manifests.load(directory)
  return report_of(manifest, 0, len(manifest.shards))


def _begin(directory: str, plan: Mapping[str, Any]) -> None:
  path = os.path.join(directory, PLAN)
  if os.path.exists(path):
    check_plan(directory, _read_plan(path), plan)
  elif glob.glob(os.path.join(glob.escape(directory), "*.array_record")):
    raise DataError(
      f"{directory} contains shards but no manifest, and they are not from an "
      "unfinished build; remove them or use another directory"
    )
  write_json(path, plan)
  for torn in glob.glob(os.path.join(glob.escape(directory), "*.partial")):
    os.remove(torn)


def _read_plan(path: str) -> dict[str, Any]:
  with open(path, encoding="utf-8") as file:
    return json.load(file)


def check_plan(
  directory: str, before: Mapping[str, Any], plan: Mapping[str, Any]
) -> None:
  """Raises `DataError` if a directory has an unfinished build of other data."""
  found = changes(before, plan)
  if found:
    raise DataError(
      f"{directory} contains a different unfinished build: "
      f"{'; '.join(found)}; use the same inputs and options as before, or "
      "remove the directory"
    )


def changes(before: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
  """Returns how a plan differs from an earlier one, as text."""
  return [
    f"{name} was {before[group].get(name)!r}, is {plan[group].get(name)!r}"
    for group in plan
    for name in sorted({*before[group], *plan[group]})
    if before[group].get(name) != plan[group].get(name)
  ]


def _schema(inputs: Mapping[Split, Source], options: BuildOptions) -> Schema:
  side = options.resolution
  shape = (side, side, options.channels)
  if not side:
    shape = recipe.common_shape(inputs["train"], options)
  return Schema(
    encoding=options.encoding,
    image_shape=shape,
    multilabel=options.multilabel,
  )


def _shard_tasks(job: Job, kept: Mapping[Split, np.ndarray]) -> Iterator[Task]:
  step = job.options.records_per_shard
  for split, source in job.inputs.items():
    indices = kept[split] if split in kept else np.arange(len(source))
    if job.options.shuffle:
      bits = hashing.random_bits(job.options.seed, _ORDER, indices)
      indices = indices[np.argsort(bits, kind="stable")]
    count = -(-len(indices) // step)
    for shard in range(count):
      file = ingest.shard_name(split, shard, count)
      yield Task(split, file, indices[shard * step : (shard + 1) * step])


def _write_shard(job: Job, task: Task) -> Part:
  rejects: list[Rejected] = []
  labels: collections.Counter[int] = collections.Counter()
  unchanged = 0

  def encoded() -> Iterator[bytes]:
    nonlocal unchanged
    source = job.inputs[task.split]
    for index in task.indices.tolist():
      try:
        fitted = recipe.load(source, index, job.options, job.schema)
      except Reject as reject:
        rejects.append(Rejected(index, reject.reason, reject.where))
        continue
      labels.update(fitted.labels)
      unchanged += fitted.data is not None
      yield recipe.encode(fitted, job.options, job.schema)

  path = task.partial(job.directory)
  records = ingest.write_records(path, encoded(), job.options.compression)
  return task.finish(job.directory, records, rejects, labels, unchanged)


def _manifest(
  job: Job,
  class_names: tuple[str, ...],
  parts: PartMaker,
  written: Sequence[Part],
  plan: Mapping[str, Any],
) -> Manifest:
  shards = tuple(
    ShardFile(
      **{name: getattr(part, name) for name in ShardFile.__annotations__}
    )
    for part in written
    if part.records
  )
  splits = {}
  for split, source in job.inputs.items():
    of_split = [part for part in written if part.split == split]
    if not any(part.records for part in of_split):
      raise DataError(
        f"no usable record is left in the {split} split {source.identity}; "
        "check the images, or leave the split out"
      )
    labels: collections.Counter[int] = collections.Counter()
    for part in of_split:
      labels.update(part.labels)
    splits[split] = {
      "input": source.identity,
      "input_records": len(source),
      "rejects": sum(split == of for of, _ in parts.rejects),
      "duplicates": parts.duplicates[split],
      "files_kept_as_they_were": sum(part.unchanged for part in of_split),
      "label_counts": [labels[label] for label in range(len(class_names))],
      "notes": list(source.notes),
    }
  options = job.options
  names = ("resolution", "channels", "crop", "padding")
  names += ("dedup", "shuffle", "seed")
  made = {name: getattr(options, name) for name in names}
  made |= {"resize": recipe.RESIZE, "compression": options.compression}
  if options.encoding == "jpeg":
    made["quality"] = options.quality
  made |= {"made_with": plan["made_with"], "splits": splits}
  return Manifest(
    name=options.name,
    schema=job.schema,
    class_names=class_names,
    shards=shards,
    source=options.source,
    licence=options.licence,
    padding=0 if options.resolution else options.padding,
    made=made,
  )


def _write_rejects(
  directory: str,
  inputs: Mapping[Split, Source],
  rejects: Sequence[tuple[Split, Rejected]],
) -> None:
  path = os.path.join(directory, REJECTS)
  if not rejects:
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)
    return
  with manifests.open_json(f"{path}.partial") as file:
    for split, reject in sorted(rejects):
      row = {"source": inputs[split].identity} | reject._asdict()
      file.write(json.dumps(row, ensure_ascii=False) + "\n")
  os.replace(f"{path}.partial", path)


def _remove_helpers(directory: str) -> None:
  """Removes the files that only an unfinished build needs, its plan last."""
  inside = glob.escape(directory)
  for pattern in ("*.array_record.done", "scan-*.npy*", PLAN):
    for path in glob.glob(os.path.join(inside, pattern)):
      os.remove(path)


def report_of(manifest: Manifest, written: int, shards: int) -> Report:
  """Returns the report of a finished build."""
  splits = manifest.made["splits"].values()
  return Report(
    manifest=manifest,
    rejects=sum(split["rejects"] for split in splits),
    duplicates=sum(split["duplicates"] for split in splits),
    shards_written=written,
    shards_kept=shards - written,
  )
