"""Which folder of a sweep holds which run.

A folder is a run's where its spec.json says the run's settings: the config may
have been edited since it was made. `OUT/sweep.json` remembers where the runs
that the config once named lie on its axes.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.scaling.sweep import SweepRun, label
from bigscale.spec import Change, RunSpec, SpecError, from_json, to_json
from bigscale.train.folder import (
  by_meaning,
  differences,
  settings_in,
  write_whole,
)

Tree = Mapping[str, Any]
# Groups that a run may change on its way, and that decide what its row says.
_OF_ROWS = ("evaluate", "monitor")
# What a run writes after its spec.json.
_TRACES = ("events.jsonl", "metrics.jsonl", "checkpoints")
# Runs that an error names; of more, the number.
_NAMED = 4


class Placed(NamedTuple):
  """The runs of a sweep and their folders.

  Attributes:
    runs: that the config names, in its order, each with its folder.
    dropped: that it no longer names, but that have a folder.
    notes: what the user should know, a sentence each.
  """

  runs: list[SweepRun]
  dropped: list[SweepRun]
  notes: list[str]


def folder_of(out: pathlib.Path, run: SweepRun) -> pathlib.Path:
  """Where a sweep keeps a run."""
  return out / "runs" / (run.folder or run.name)


def place(
  out: pathlib.Path, planned: Sequence[SweepRun], *, anew: bool = False
) -> Placed:
  """Finds the folder of every run.

  Args:
    out: folder of the sweep.
    planned: all runs that its config names.
    anew: whether a run whose folder holds other settings gets a folder of its
      own, which is made.

  Raises:
    SpecError: a folder holds other settings, which are named, or its spec.json
      is damaged.
  """
  names = {run.name for run in planned}
  notes: list[str] = []
  found = _read(out, names, notes)
  runs, others, taken = [], [], set()
  for run in planned:
    folder = _find(run, found, names | taken)
    if folder is None:
      folder = f"{run.name}@{_key(run.spec)}"
      path = out / "runs" / folder
      # It may have been made longer since.
      held = found.get(folder)
      if held is None and anew:
        path.mkdir(parents=True, exist_ok=True)
      elif held is not None or not path.is_dir():
        others.append((run, conflicts(held or found[run.name], run.spec)))
    runs.append(run._replace(folder=folder))
    taken.add(folder)
    notes += _about(runs[-1], found.get(folder))
  if others:
    raise SpecError(_refusal(out, others))
  left = {name: tree for name, tree in found.items() if name not in taken}
  return Placed(runs, _dropped(out, left, planned, notes), notes)


def conflicts(recorded: Tree, spec: RunSpec) -> list[str]:
  """Settings that a finished run would not share with a spec.

  Args:
    recorded: the settings in a run's spec.json, of any version.
    spec: to compare with. Settings that change no number may differ, and it
      may be of a longer run, which the finished one is the beginning of.

  Returns:
    `NAME: OLD there, NEW here` of each.
  """
  new = by_meaning(to_json(spec))
  return [
    f"{name}: {before!r} there, {after!r} here"
    for name, before, after in differences(by_meaning(recorded), new, "")
    if _matters(name, before, after)
  ]


def remember(out: pathlib.Path, runs: Iterable[SweepRun]) -> None:
  """Adds runs to what `OUT/sweep.json` knows of its folders."""
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


def _remembered(out: pathlib.Path) -> dict[str, dict[str, Any]]:
  try:
    return dict(json.loads((out / "sweep.json").read_bytes())["runs"])
  except (OSError, ValueError, KeyError, TypeError):
    # Of older sweeps there is none. What it says is a help, no result.
    return {}


def _read(
  out: pathlib.Path, names: set[str], notes: list[str]
) -> dict[str, Tree]:
  """The settings of every run that was begun, by folder."""
  found = {}
  for folder in sorted((out / "runs").glob("*/")):
    path = folder / "spec.json"
    # A run may also have failed before it began.
    if not path.exists() and not any(
      (folder / one).exists() for one in _TRACES
    ):
      continue
    try:
      found[folder.name] = dict(settings_in(path))
    except (OSError, ValueError) as error:
      said = f"{path} is {_ailment(error)}"
      if folder.name in names:
        raise SpecError(
          f"{said}: whether it is a run of --config cannot be told; put back a "
          "copy of the file, or move its folder out of the sweep's"
        ) from None
      notes.append(f"{said}: the run is not in the tables")
  return found


def _ailment(error: Exception) -> str:
  if isinstance(error, FileNotFoundError):
    return "missing, and what the run has written is there"
  return f"damaged ({error})"


def _find(
  run: SweepRun, found: Mapping[str, Tree], taken: set[str]
) -> str | None:
  """The folder that a run has or may take; None where another has its name.

  Args:
    run: of the sweep.
    found: settings by folder.
    taken: folders that are other runs', or may be by their name.
  """
  own = re.compile(re.escape(run.name) + "(@[0-9a-f]{8})?")
  for folder, tree in found.items():
    if own.fullmatch(folder) and not conflicts(tree, run.spec):
      return folder
  # It may have been made under another name, by axes of other names.
  for folder, tree in found.items():
    if (
      folder not in taken
      and not conflicts(tree, run.spec)
      and _kimg(tree) == run.spec.total_kimg
    ):
      return folder
  return None if run.name in found else run.name


def _about(run: SweepRun, recorded: Tree | None) -> list[str]:
  """What is to be said of a run's folder."""
  notes = []
  if recorded is None:
    return notes
  if run.folder.partition("@")[0] != run.name:
    notes.append(f"{run.name} is runs/{run.folder}, which has its settings")
  if _kimg(recorded) < run.spec.total_kimg:
    notes.append(
      f"{run.name} is to end at {run.spec.total_kimg:g} kimg and was begun to "
      f"end at {_kimg(recorded):g}: unless it collapsed, its next start goes on"
    )
  return notes


def _dropped(
  out: pathlib.Path,
  left: Mapping[str, Tree],
  planned: Sequence[SweepRun],
  notes: list[str],
) -> list[SweepRun]:
  """The runs in folders that the config does not name."""
  known, specs = _remembered(out), {run.name: run.spec for run in planned}
  axes = {axis for run in planned for axis in run.values}
  runs, told = [], []
  for folder, tree in left.items():
    about = known.get(folder, {})
    try:
      spec = from_json(tree)
    except SpecError as error:
      notes.append(f"runs/{folder} is not in the tables: {error}")
      continue
    named = folder.partition("@")[0]
    blocks = tuple(about.get("blocks", ()))
    values = _along(axes, tree, about.get("values", {}))
    runs.append(SweepRun(folder, blocks, values, spec, folder))
    changed = conflicts(tree, specs[named]) if named in specs else []
    told.append(f"{folder} ({'; '.join(changed)})" if changed else folder)
  if told:
    notes.append(
      "runs that --config does not name stay in the tables, marked "
      f"in_config=no: {', '.join(told)}"
    )
  return runs


def _along(
  axes: Iterable[str], recorded: Tree, remembered: Mapping[str, str]
) -> dict[str, str]:
  """Where a run lies: on axes that are settings, where its settings say."""
  leaves = dict(_leaves(recorded, ""))
  own = {
    axis: label(leaves[axis])
    for axis in sorted({*axes, *remembered})
    if axis in leaves
  }
  return {**remembered, **own}


def _matters(name: str, before: Any, after: Any) -> bool:
  """Whether tables would mix what does not belong together."""
  if name == "total_kimg":
    return not (isinstance(before, (int, float)) and before < after)
  of_rows = name.split(".")[0] in _OF_ROWS
  return of_rows or Change(name, before, after).nature.kind != "free"


def _kimg(recorded: Tree) -> float:
  kimg = recorded.get("total_kimg", 0.0)
  return kimg if isinstance(kimg, (int, float)) else 0.0


def _key(spec: RunSpec) -> str:
  """Of the settings that count: equal settings have equal keys."""
  counting = [
    (name, value)
    for name, value in _leaves(json.loads(json.dumps(to_json(spec))), "")
    if _matters(name, None, value)
  ]
  return hashlib.sha256(json.dumps(counting).encode()).hexdigest()[:8]


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
  if not isinstance(tree, Mapping):
    yield path, tree
    return
  for key in sorted(tree):
    yield from _leaves(tree[key], f"{path}.{key}" if path else key)


def _refusal(
  out: pathlib.Path, others: Sequence[tuple[SweepRun, list[str]]]
) -> str:
  alike: dict[tuple[str, ...], list[str]] = {}
  for run, changed in others:
    alike.setdefault(tuple(changed), []).append(run.name)
  lines = [f"--out={out} holds runs of other settings than --config gives:"]
  for changed, names in alike.items():
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    lines.append(f"  {', '.join(names[:_NAMED])}{more}:")
    lines += [f"    {one}" for one in changed]
  lines.append(
    "Restore these values, or name another --out; or give --anew, which runs "
    "each of them in a new folder and keeps the old ones, marked in_config=no."
  )
  return "\n".join(lines)
