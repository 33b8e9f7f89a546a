"""Builds a data set on a local disk and uploads it to a bucket.

The set is built in the cache folder. Its plan is then created in the bucket, so
that a different build cannot write to the same address, and the manifest is
uploaded last. After an interruption, the same call continues: shards that were
built and uploaded are kept.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from bigscale import cache_folder
from bigscale.data import ingest, places
from bigscale.data import manifest as manifests
from bigscale.data.build import (
  PLAN,
  REJECTS,
  Progress,
  Report,
  build,
  changes,
  check_plan,
  plan_of,
  report_of,
)
from bigscale.data.manifest import DataError, Manifest, Split
from bigscale.data.parts import write_json
from bigscale.data.recipe import BuildOptions
from bigscale.data.sources import Source
from bigscale.place import Place, open_place

_UPLOADED, _LOCK, _SET = "uploaded.json", "lock", "set"


def build_at(
  inputs: Mapping[Split, Source],
  out: str,
  options: BuildOptions,
  progress: Progress | None = None,
) -> Report:
  """Builds a data set at a path or an address; see `build`.

  Raises:
    DataError: see `build`; or another build uses the address.
    StoreError: the store fails. What was built and uploaded is kept.
  """
  if not places.is_remote(out):
    return build(inputs, places.local_path(out), options, progress)
  place = open_place(out)
  plan = plan_of(inputs, options)
  name = hashlib.sha256(place.url.encode()).hexdigest()[:16]
  stage = os.path.join(cache_folder.directory(), "uploads", name)
  ingest.make_directory(stage)
  with _locked(stage, place.url):
    if place.entry(manifests.FILE_NAME) is not None:
      return _finish_uploaded(place, plan, stage)
    _claim(place, plan)
    report = _build(inputs, stage, options, plan, progress)
    _upload(place, stage, report.manifest)
    place.delete(PLAN)
    shutil.rmtree(stage)
  return report


@contextlib.contextmanager
def _locked(stage: str, url: str) -> Iterator[None]:
  with open(os.path.join(stage, _LOCK), "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise DataError(
        f"another build is writing to {url}; wait for it, or use another "
        "address"
      ) from error
    yield


def _finish_uploaded(
  place: Place, plan: Mapping[str, Any], stage: str
) -> Report:
  """Finishes a build that was stopped after it uploaded its manifest."""
  before = _read(place, PLAN)
  if before is None or changes(json.loads(before), plan):
    raise ingest.holds_a_set(place.url)
  manifest = manifests.load(place.url)
  place.delete(PLAN)
  shutil.rmtree(stage, ignore_errors=True)
  return report_of(manifest, 0, len(manifest.shards))


def _claim(place: Place, plan: Mapping[str, Any]) -> None:
  """Creates the plan at the address; equal builds may use it together."""
  if place.create(PLAN, json.dumps(plan, indent=1).encode()):
    return
  before = _read(place, PLAN)
  if before is not None:
    check_plan(place.url, json.loads(before), plan)


def _read(place: Place, name: str) -> bytes | None:
  try:
    return place.read(name)
  except FileNotFoundError:
    return None


def _build(
  inputs: Mapping[Split, Source],
  stage: str,
  options: BuildOptions,
  plan: Mapping[str, Any],
  progress: Progress | None,
) -> Report:
  """Builds the set in the stage, unless an earlier call did."""
  directory = os.path.join(stage, _SET)
  path = os.path.join(stage, PLAN)
  if os.path.exists(path):
    with open(path, encoding="utf-8") as file:
      same = not changes(json.load(file), plan)
    if same and os.path.exists(os.path.join(directory, manifests.FILE_NAME)):
      manifest = manifests.load(directory)
      return report_of(manifest, 0, len(manifest.shards))
    if not same:  # The address was removed since, so its stage is stale.
      shutil.rmtree(directory, ignore_errors=True)
      os.remove(os.path.join(stage, PLAN))
      with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(stage, _UPLOADED))
  write_json(path, plan)
  return build(inputs, directory, options, progress)


def _upload(place: Place, stage: str, manifest: Manifest) -> None:
  """Uploads the files of a set, its manifest last."""
  directory = os.path.join(stage, _SET)
  record = os.path.join(stage, _UPLOADED)
  uploaded: dict[str, str] = {}
  if os.path.exists(record):
    with open(record, encoding="utf-8") as file:
      uploaded = json.load(file)
  present = {entry.name: entry.version for entry in place.list()}
  files = [shard.file for shard in manifest.shards]
  if os.path.exists(os.path.join(directory, REJECTS)):
    files.append(REJECTS)
  for file in files:
    if file in uploaded and present.get(file) == uploaded[file]:
      continue
    place.write(file, _content(directory, file))
    uploaded[file] = place.entry(file).version
    write_json(record, uploaded)
  if not place.create(
    manifests.FILE_NAME, _content(directory, manifests.FILE_NAME)
  ) and dataclasses.asdict(manifests.load(place.url)) != dataclasses.asdict(
    manifest
  ):
    raise ingest.holds_a_set(place.url)


def _content(directory: str, file: str) -> bytes:
  with open(os.path.join(directory, file), "rb") as opened:
    return opened.read()
