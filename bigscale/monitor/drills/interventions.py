"""Measures which interventions save a run whose fault persists.

Every policy trains from the same branch point, shortly before the fault, with
rollbacks. The fault is a wrong setting that stays, so a plain rollback meets it
again. Each finished run writes one row to `interventions.jsonl`.
"""

import itertools
import pathlib
import statistics
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bigscale.monitor import scoring
from bigscale.monitor.drills.drills import Drills, describe
from bigscale.monitor.drills.plan import Drill
from bigscale.monitor.drills.runs import prune
from bigscale.monitor.drills.stages import STAGES
from bigscale.monitor.drills.table import end_of_row
from bigscale.train.writers import JsonLines

# Fields of `MonitorSpec` of each policy. By default, a rollback skips data.
POLICIES: Mapping[str, Mapping[str, Any]] = {
  "none": {"interventions": ()},
  "replay": {"interventions": (), "data": "replay"},
  "lower_lr": {"interventions": ("lower_lr",)},
  "raise_gamma": {"interventions": ("raise_gamma",)},
  "clamp_sigma": {"interventions": ("clamp_sigma",)},
  "ema_to_g": {"interventions": ("ema_to_g",)},
  "older_d": {"interventions": ("older_d",)},
  "ema_to_g+older_d": {"interventions": ("ema_to_g", "older_d")},
}
# Collapses by model: wrong settings, noise in the weights, and rates that are
# too high from some step on or from the first one.
COLLAPSES: Mapping[str, tuple[str, ...]] = {
  "r3gan_8": (
    "lr_g_10",
    "lr_both_10",
    "both_lr_creep",
    "gamma_fades",
    "d_noise",
    "warm_without_penalty",
  ),
  "biggan_8": ("lr_both_10", "g_momentum", "d_lr_creeps", "warm_both"),
}
_FIRST_SEED = 9300
# A run is saved if it ends at most so far above its undisturbed twin.
_SAVED = scoring.HARMED


class Cell(NamedTuple):
  """One run: a drill and a policy."""

  drill: Drill
  policy: str

  @property
  def name(self) -> str:
    """Name of the run in `interventions.jsonl`."""
    return f"{self.drill.name}-{self.policy}"


def plan(
  seeds: int = 1,
  collapses: Collection[str] = (),
  policies: Collection[str] = (),
) -> list[Cell]:
  """Returns all runs; those of one drill are consecutive.

  Args:
    seeds: number of seeds per collapse and model.
    collapses: keys of `KINDS` to use; empty for `COLLAPSES`.
    policies: keys of `POLICIES` to use; empty for all.
  """
  found = []
  for seed in range(_FIRST_SEED, _FIRST_SEED + seeds):
    for stage, usual in COLLAPSES.items():
      for what in usual:
        if collapses and what not in collapses:
          continue
        drill = Drill(stage, "dense", what, seed)
        found += [
          Cell(drill, policy)
          for policy in policies or POLICIES
          if _applies(policy, STAGES[stage][0])
        ]
  return found


def _applies(policy: str, config: Mapping[str, Any]) -> bool:
  """Returns whether a model has what a policy changes."""
  if policy == "raise_gamma":
    return config["loss"].get("r1_gamma", 0) > 0
  # Without spectral norm, clamping needs singular values in every step.
  return policy != "clamp_sigma" or config["model"]["name"] == "biggan"


def part(cells: Sequence[Cell], share: int, parts: int) -> list[Cell]:
  """Returns part `share` of `parts`, counted from 1.

  Runs of the same undisturbed run are in the same part.
  """
  trunks = list(dict.fromkeys(cell.drill.trunk for cell in cells))
  mine = set(trunks[share - 1 :: parts])
  return [cell for cell in cells if cell.drill.trunk in mine]


class Interventions:
  """Runs cells and records their results in a folder."""

  def __init__(self, out: pathlib.Path, keep_runs: bool = False) -> None:
    """Opens the folder; see `Drills`."""
    self._rows = JsonLines(out / "interventions.jsonl")
    # The trunk's checkpoints are needed until the last policy has run.
    self._drills = Drills(out, keep_runs=True)
    self._keep_runs = keep_runs

  def rows(self) -> list[dict[str, Any]]:
    """Returns the rows of the finished runs."""
    return self._rows.rows()

  def run(self, cells: Iterable[Cell]) -> Iterator[dict[str, Any]]:
    """Runs the unfinished cells and yields their rows."""
    done = {row["name"] for row in self.rows()}
    left = [cell for cell in cells if cell.name not in done]
    for trunk, group in itertools.groupby(left, lambda c: c.drill.trunk):
      self._drills.grow(trunk)
      for cell in group:
        row = self._run_one(cell)
        self._rows.write(row)
        yield row
      if not self._keep_runs:
        prune(self._drills.folder(trunk))

  def _run_one(self, cell: Cell) -> dict[str, Any]:
    started = time.time()
    untreated = self._untreated(cell.drill)
    run = self._drills.make(
      cell.drill,
      cell.policy,
      clamps=cell.policy == "clamp_sigma",
      action="rollback",
      **POLICIES[cell.policy],
    )
    found = run.train()
    if not self._keep_runs:
      prune(run.folder)
    twin = self._drills.twin(cell.drill)
    end = end_of_row({**describe(cell.drill), **found}, twin)
    return {
      **describe(cell.drill),
      "name": cell.name,
      "policy": cell.policy,
      **found,
      "ratio": _ratio(found, twin),
      "outcome": end.outcome,
      "untreated": untreated,
      "seconds": round(time.time() - started, 1),
    }

  def _untreated(self, drill: Drill) -> dict[str, Any]:
    """Returns the outcome of the run without rollbacks, which is shared."""
    for row in self.rows():
      if row["name"].startswith(f"{drill.name}-") and "untreated" in row:
        return row["untreated"]
    run = self._drills.make(drill, "untreated")
    found = run.train()
    prune(run.folder)
    twin = self._drills.twin(drill)
    end = end_of_row({**describe(drill), **found}, twin)
    return {
      "ratio": _ratio(found, twin),
      "outcome": end.outcome,
      "lost_step": end.lost_step,
      "scores": found["scores"],
      "ended": found["ended"],
    }


def _ratio(found: Mapping[str, Any], twin: Mapping[str, Any]) -> float | None:
  """Returns the final score over the twin's; None if the run ended early.

  It is known also where the settings differ from the first step on.
  """
  if found["ended"] is not None:
    return None
  return scoring.ratio_to_twin(found["scores"], twin["scores"])


def as_line(row: Mapping[str, Any]) -> str:
  """Formats a row as one line of text."""
  ratio = "no score" if row["ratio"] is None else f"{row['ratio']:.2f}"
  ended = "" if row["ended"] is None else f", ended at {row['ended']}"
  untreated = row["untreated"]["ratio"]
  before = "no score" if untreated is None else f"{untreated:.2f}"
  return (
    f"{row['name']}: {ratio} of its twin ({before} untreated), "
    f"{row['rollbacks']} rollbacks{ended}; {row['seconds']} s"
  )


def is_saved(row: Mapping[str, Any]) -> bool:
  """Returns whether a run ended nearly as well as its undisturbed twin."""
  ratio = row["ratio"]
  return row["ended"] is None and ratio is not None and ratio <= _SAVED


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns, by policy, how many ruined runs it saved, and every result.

  Only runs that are lost without rollbacks and were rolled back count.

  Args:
    rows: rows of `interventions.jsonl`.

  Returns:
    A dict of
      policies: by policy, `saved` and `ended` as proportions, and the medians
        of `ratio` (final distance over the twin's) and of `rollbacks`.
      collapses: by model and collapse, the untreated ratio and by policy the
        ratio, the number of rollbacks and whether the run ended.
  """
  counted = [
    row
    for row in rows
    if row["untreated"]["outcome"] == "lost" and row["rollbacks"]
  ]
  policies = {}
  for policy in dict.fromkeys(row["policy"] for row in rows):
    mine = [row for row in counted if row["policy"] == policy]
    ratios = [row["ratio"] for row in mine if row["ratio"] is not None]
    policies[policy] = {
      "saved": scoring.wilson(sum(map(is_saved, mine)), len(mine)),
      "ended": scoring.wilson(
        sum(row["ended"] is not None for row in mine), len(mine)
      ),
      "ratio": statistics.median(ratios) if ratios else None,
      "rollbacks": statistics.median(r["rollbacks"] for r in mine)
      if mine
      else None,
    }
  collapses: dict[str, dict[str, Any]] = {}
  for row in rows:
    name = f"{row['stage']} {row['what']} {row['seed']}"
    of = collapses.setdefault(
      name, {"untreated": row["untreated"]["ratio"], "policies": {}}
    )
    of["policies"][row["policy"]] = {
      "ratio": row["ratio"],
      "rollbacks": row["rollbacks"],
      "ended": row["ended"] is not None,
    }
  return {"policies": policies, "collapses": collapses}


def as_markdown(found: Mapping[str, Any]) -> str:
  """Formats the summary as two tables in Markdown.

  A cell of the second contains the final distance over the twin's, the number
  of rollbacks in brackets, and `ended` if the run was given up.
  """
  lines = [
    "| policy | saved | given up | distance, median | rollbacks, median |",
    "|---|---|---|---|---|",
  ]
  for policy, of in found["policies"].items():
    cells = [
      policy,
      scoring.share_text(of["saved"]),
      scoring.share_text(of["ended"]),
      _number(of["ratio"]),
      _number(of["rollbacks"]),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  names = list(found["policies"])
  lines += [
    "",
    f"| collapse | untreated | {' | '.join(names)} |",
    "|---" * (len(names) + 2) + "|",
  ]
  for collapse, of in found["collapses"].items():
    cells = [_cell_text(of["policies"].get(name)) for name in names]
    lines.append(
      f"| {collapse} | {_number(of['untreated'])} | {' | '.join(cells)} |"
    )
  return "\n".join(lines)


def _cell_text(cell: Mapping[str, Any] | None) -> str:
  if cell is None:
    return ""
  ended = " ended" if cell["ended"] else ""
  return f"{_number(cell['ratio'])} ({cell['rollbacks']}){ended}"


def _number(value: float | None) -> str:
  return "" if value is None else f"{value:.3g}"
