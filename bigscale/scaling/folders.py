"""Finds the folder of each run of a sweep.

A folder belongs to a run if its spec.json has the run's settings, since the
config may have been edited after the folder was created. `OUT/sweep.json`
records the axis values of all runs that the config has ever named.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from bigscale.place import is_remote, open_place
from bigscale.scaling.sweep import SweepRun, label
from bigscale.spec import Change, RunSpec, SpecError, from_json, to_json
from bigscale.train.folder import settings_in, write_whole
from bigscale.train.settings import by_meaning, differences

Tree = Mapping[str, Any]
# Groups of settings that a run may change while it trains, but that affect its
# row in the tables.
_ROW_GROUPS = ("evaluate", "monitor")
# What a run writes after its spec.json.
_LATER_FILES = ("events.jsonl", "metrics.jsonl", "checkpoints")
# Maximum number of runs that an error lists by name.
_MAX_NAMES = 4


class Placed(NamedTuple):
  """The runs of a sweep and their folders.

  Attributes:
    runs: runs that the config names, in its order, each with its folder.
    dropped: runs that have a folder but that the config no longer names.
    notes: messages for the user.
  """

  runs: list[SweepRun]
  dropped: list[SweepRun]
  notes: list[str]


def folder_of(out: epath.Path, run: SweepRun) -> epath.Path:
  """Returns the folder of a run."""
  return out / "runs" / (run.folder or run.name)


def place(
  out: epath.Path, planned: Sequence[SweepRun], *, anew: bool = False
) -> Placed:
  """Finds the folder of every run.

  Args:
    out: folder of the sweep.
    planned: all runs that the sweep's config names.
    anew: whether to create a new folder for a run if its existing folder has
      other settings.

  Raises:
    SpecError: a folder has other settings, which the message lists, or its
      spec.json is damaged.
  """
  names = {run.name for run in planned}
  notes: list[str] = []
  found = _read(out, names, notes)
  runs, others, taken = [], [], set()
  for run in planned:
    folder = _find(run, found, names | taken)
    if folder is None:
      folder = f"{run.name}@{_settings_hash(run.spec)}"
      path = out / "runs" / folder
      # The new folder may already exist, with a run that was extended since.
      held = found.get(folder)
      if held is None and anew:
        path.mkdir(parents=True, exist_ok=True)
      elif held is not None or not path.is_dir():
        others.append((run, conflicts(held or found[run.name], run.spec)))
    runs.append(run._replace(folder=folder))
    taken.add(folder)
    notes += _notes_on(runs[-1], found.get(folder))
  if others:
    raise SpecError(_refusal(out, others))
  left = {name: tree for name, tree in found.items() if name not in taken}
  return Placed(runs, _dropped(out, left, planned, notes), notes)


def conflicts(recorded: Tree, spec: RunSpec) -> list[str]:
  """Returns the settings in which a recorded run conflicts with a spec.

  Args:
    recorded: settings in a run's spec.json, of any version.
    spec: spec to compare with. It may differ in settings that do not affect
      results, and it may be of a longer run, which continues the recorded one.

  Returns:
    `NAME: OLD there, NEW here` for each conflict.
  """
  new = by_meaning(to_json(spec))
  return [
    f"{name}: {before!r} there, {after!r} here"
    for name, before, after in differences(by_meaning(recorded), new, "")
    if _changes_run(name, before, after)
  ]


def remember(out: epath.Path, runs: Iterable[SweepRun]) -> None:
  """Adds the axis values of runs to `OUT/sweep.json`."""
  known = _remembered(out)
  now = known | {
    run.folder or run.name: {
      "blocks": list(run.blocks),
      "values": dict(run.values),
    }
    for run in runs
  }
  if now != known:
    write_whole(out / "sweep.json", json.dumps({"runs": now}, indent=2) + "\n")


def _remembered(out: epath.Path) -> dict[str, dict[str, Any]]:
  try:
    return dict(json.loads(open_place(out).read("sweep.json"))["runs"])
  except (OSError, ValueError, KeyError, TypeError):
    # Older sweeps have no such file, and its content is optional.
    return {}


def _read(
  out: epath.Path, names: set[str], notes: list[str]
) -> dict[str, Tree]:
  """Returns the settings of every run that has started, by folder."""
  found, place = {}, open_place(out / "runs")
  for folder in _folders(out):
    own = place.folder(folder)
    path = out / "runs" / folder / "spec.json"
    # A run that failed before it started has none of these files.
    if own.entry("spec.json") is None and not any(map(own.any, _LATER_FILES)):
      continue
    try:
      found[folder] = dict(settings_in(own.read("spec.json")))
    except (OSError, ValueError) as error:
      problem = f"{path} is {_problem(error)}"
      if folder in names:
        raise SpecError(
          f"{problem}, so it is unknown whether the run has the settings of "
          "--config. Restore the file from a copy, or move its folder out of "
          "the sweep"
        ) from None
      notes.append(f"{problem}: the run is not in the tables")
  return found


def _folders(out: epath.Path) -> list[str]:
  """Returns the names of the folders in `runs`."""
  if is_remote(out):
    listed = open_place(out / "runs").list()
    return sorted({entry.name.split("/")[0] for entry in listed})
  return sorted(path.name for path in (out / "runs").glob("*/"))


def _problem(error: Exception) -> str:
  if isinstance(error, FileNotFoundError):
    return "missing, although the folder has other files of a run"
  return f"damaged ({error})"


def _find(
  run: SweepRun, found: Mapping[str, Tree], taken: set[str]
) -> str | None:
  """Returns a run's folder, or None if its name is taken by other settings.

  Args:
    run: run of the sweep.
    found: settings by folder.
    taken: folders of other runs, and folders with the name of a planned run.
  """
  own = re.compile(re.escape(run.name) + "(@[0-9a-f]{8})?")
  for folder, tree in found.items():
    if own.fullmatch(folder) and not conflicts(tree, run.spec):
      return folder
  # Renamed axes give the same run another name.
  for folder, tree in found.items():
    if (
      folder not in taken
      and not conflicts(tree, run.spec)
      and _kimg(tree) == run.spec.total_kimg
    ):
      return folder
  return None if run.name in found else run.name


def _notes_on(run: SweepRun, recorded: Tree | None) -> list[str]:
  """Returns messages about a run's folder."""
  notes = []
  if recorded is None:
    return notes
  if run.folder.partition("@")[0] != run.name:
    notes.append(
      f"{run.name} uses runs/{run.folder}, which has the same settings"
    )
  if _kimg(recorded) < run.spec.total_kimg:
    notes.append(
      f"{run.name} now ends at {run.spec.total_kimg:g} kimg; it was started "
      f"with {_kimg(recorded):g} kimg and continues at its next start, unless "
      "it has collapsed"
    )
  return notes


def _dropped(
  out: epath.Path,
  left: Mapping[str, Tree],
  planned: Sequence[SweepRun],
  notes: list[str],
) -> list[SweepRun]:
  """Returns the runs of folders that the config does not name."""
  known, specs = _remembered(out), {run.name: run.spec for run in planned}
  axes = {axis for run in planned for axis in run.values}
  runs, listed = [], []
  for folder, tree in left.items():
    about = known.get(folder, {})
    try:
      spec = from_json(tree)
    except SpecError as error:
      notes.append(f"runs/{folder} is not in the tables: {error}")
      continue
    named = folder.partition("@")[0]
    blocks = tuple(about.get("blocks", ()))
    values = _axis_values(axes, tree, about.get("values", {}))
    runs.append(SweepRun(folder, blocks, values, spec, folder))
    changed = conflicts(tree, specs[named]) if named in specs else []
    listed.append(f"{folder} ({'; '.join(changed)})" if changed else folder)
  if listed:
    notes.append(
      "runs that --config no longer names stay in the tables with "
      f"in_config=no: {', '.join(listed)}"
    )
  return runs


def _axis_values(
  axes: Iterable[str], recorded: Tree, remembered: Mapping[str, str]
) -> dict[str, str]:
  """Returns a run's axis values; its own settings override remembered ones."""
  leaves = dict(_leaves(recorded, ""))
  own = {
    axis: label(leaves[axis])
    for axis in sorted({*axes, *remembered})
    if axis in leaves
  }
  return {**remembered, **own}


def _changes_run(name: str, before: Any, after: Any) -> bool:
  """Returns whether changing a setting makes it a different run."""
  if name == "total_kimg":
    return not (isinstance(before, (int, float)) and before < after)
  affects_row = name.split(".")[0] in _ROW_GROUPS
  return affects_row or Change(name, before, after).nature.kind != "free"


def _kimg(recorded: Tree) -> float:
  kimg = recorded.get("total_kimg", 0.0)
  return kimg if isinstance(kimg, (int, float)) else 0.0


def _settings_hash(spec: RunSpec) -> str:
  """Returns a hash of the settings that affect results."""
  counting = [
    (name, value)
    for name, value in _leaves(json.loads(json.dumps(to_json(spec))), "")
    if _changes_run(name, None, value)
  ]
  return hashlib.sha256(json.dumps(counting).encode()).hexdigest()[:8]


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
  if not isinstance(tree, Mapping):
    yield path, tree
    return
  for key in sorted(tree):
    yield from _leaves(tree[key], f"{path}.{key}" if path else key)


def _refusal(
  out: epath.Path, others: Sequence[tuple[SweepRun, list[str]]]
) -> str:
  alike: dict[tuple[str, ...], list[str]] = {}
  for run, changed in others:
    alike.setdefault(tuple(changed), []).append(run.name)
  lines = [f"--out={out} has runs whose settings differ from --config:"]
  for changed, names in alike.items():
    extra = len(names) - _MAX_NAMES
    more = f" and {extra} more" if extra > 0 else ""
    lines.append(f"  {', '.join(names[:_MAX_NAMES])}{more}:")
    lines += [f"    {one}" for one in changed]
  lines.append(
    "Restore these values, choose another --out, or pass --anew to run them in "
    "new folders and keep the old runs with in_config=no."
  )
  return "\n".join(lines)
