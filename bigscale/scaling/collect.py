"""The tables of a sweep, read off its runs' folders.

`runs.csv` has a row a run, and is what `bigscale scaling fit` takes:

*   `run`, `blocks`, and a column for every axis;
*   `status`: `done`; `collapsed`: not finite, stopped by the monitor, or its
    score was more than twice the best before and stayed there, or D was dead
    at the end; `failed`; `running`. `collapsed_step` where it did, and
    `collapsed_by` what: `end`, `score` or `dead D`, the first;
*   what it was to cost: `steps`, `images`, `flops`, and what it is:
    `parameters` (also `_g`, `_d`), `global_batch_size`, `d_steps`,
    `dataset_images` (in an epoch), `classes`, `seed`;
*   every score: the last one, of a collapsed run the one before it collapsed;
    `best_NAME`, the best of all evaluations of the score that is watched, and
    `floor_NAME`, that of held-out reals;
*   the protocol: `num_samples`, `features`, a fingerprint of each network.

`curves.csv` has a row an evaluation: what a run had cost by then, and its
scores. From the step on where a run had collapsed its rows say so: a score of
then is a bound, too, if a weak one.
"""

import csv
import io
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bigscale.monitor.dead import dead_step
from bigscale.monitor.scoring import lost_step
from bigscale.report.read import Run as Record
from bigscale.report.read import read_whatever
from bigscale.scaling.flops import training_flops
from bigscale.scaling.networks import parameters
from bigscale.scaling.runs import folder_of, outcome_of
from bigscale.scaling.sweep import Run
from bigscale.spec.scores import rises
from bigscale.train.folder import write_whole

Row = dict[str, Any]
# Columns of runs.csv that rows of curves.csv have, too.
_ABOUT = (
  "run",
  "blocks",
  "parameters",
  "parameters_g",
  "parameters_d",
  "global_batch_size",
  "dataset_images",
  "classes",
  "seed",
  "num_samples",
  "features",
)


def write_tables(out: pathlib.Path, runs: Sequence[Run]) -> list[Row]:
  """Writes runs.csv and curves.csv of the runs that were begun.

  Args:
    out: folder of the sweep.
    runs: of it.

  Returns:
    The rows of runs.csv.
  """
  begun = [
    (run, read_whatever(folder))
    for run in runs
    if (folder := folder_of(out, run)).joinpath("spec.json").is_file()
    # It may have failed before it began.
    or outcome_of(out, run)
  ]
  rows = [row_of(out, run, record) for run, record in begun]
  curves = [
    row
    for (run, record), ended in zip(begun, rows, strict=True)
    for row in curve_of(run, record, ended)
  ]
  write_whole(out / "runs.csv", as_csv(rows))
  write_whole(out / "curves.csv", as_csv(curves))
  return rows


def row_of(out: pathlib.Path, run: Run, record: Record) -> Row:
  """A run's row of runs.csv; see the module's docstring."""
  scored, watched = _scored(run, record), run.spec.best_score
  outcome = outcome_of(out, run)
  status = outcome.status if outcome else "running"
  collapsed, why = None, None
  if status in ("done", "lost"):
    # Of what rises, the inverse falls.
    series = [(row["step"], _falling(watched, row[watched])) for row in scored]
    found = {
      "end": outcome.step if status == "lost" else None,
      "score": lost_step(series, None),
      "dead D": dead_step(record.rows),
    }
    known = [(step, cause) for cause, step in found.items() if step is not None]
    collapsed, why = min(known, default=(None, None))
    status = "done" if collapsed is None else "collapsed"
  if collapsed is not None:
    scored = [row for row in scored if row["step"] < collapsed]
  last = scored[-1] if scored else {}
  best = min(
    (row[watched] for row in scored),
    key=lambda value: _falling(watched, value),
    default=None,
  )
  return {
    "run": run.name,
    "blocks": "+".join(run.blocks),
    **run.values,
    "status": status,
    "collapsed_step": collapsed,
    "collapsed_by": why,
    **_costs(run),
    "dataset_images": _last(record, "start").get("dataset_images"),
    **{name: last.get(name) for name in run.spec.evaluate.columns},
    f"best_{watched}": best,
    **{
      f"floor_{name}": record.reference.get(f"{name}_floor")
      for name in run.spec.evaluate.columns
    },
    **_protocol(run, record),
    "seconds": record.seconds,
  }


def curve_of(run: Run, record: Record, ended: Row) -> list[Row]:
  """A run's rows of curves.csv, in the order of steps.

  Args:
    run: of the sweep.
    record: its folder.
    ended: its row of runs.csv.
  """
  cost = training_flops(run.spec).per_step
  collapsed = ended["collapsed_step"]
  about = {k: v for k, v in ended.items() if k in (*_ABOUT, *run.values)}
  return [
    {
      **about,
      **row,
      "status": "done"
      if collapsed is None or row["step"] < collapsed
      else "collapsed",
      "images": row["step"] * run.spec.images_per_step,
      "flops": row["step"] * cost,
    }
    for row in _scored(run, record)
  ]


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
  """Rows under all of their columns; cells of None stay empty."""
  rows = list(rows)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(
    {k: "" if v is None else _number(v) for k, v in row.items()} for row in rows
  )
  return text.getvalue()


def _scored(run: Run, record: Record) -> list[Row]:
  """Steps with the scores of their evaluation."""
  names = run.spec.evaluate.columns
  return [
    {"step": row["step"], **{name: row[f"eval/{name}"] for name in names}}
    for row in record.rows
    if all(f"eval/{name}" in row for name in names)
  ]


def _last(record: Record, kind: str) -> Row:
  """The last event of a kind; {} where there is none."""
  found = [event for event in record.events if event.get("event") == kind]
  return found[-1] if found else {}


def _falling(name: str, value: float) -> float:
  if not rises(name):
    return value
  return 1 / value if value else math.inf


def _costs(run: Run) -> Row:
  spec = run.spec
  learned = parameters(spec.model)
  return {
    "steps": spec.total_steps,
    "images": spec.total_steps * spec.images_per_step,
    "flops": spec.total_steps * training_flops(spec).per_step,
    "parameters": learned.total,
    "parameters_g": learned.g,
    "parameters_d": learned.d,
    "global_batch_size": spec.global_batch_size,
    "d_steps": spec.optim.d_steps,
    "classes": spec.data.classes or spec.model.num_classes or None,
    "seed": spec.seed,
  }


def _protocol(run: Run, record: Record) -> Row:
  reference = _last(record, "reference")
  networks: Mapping[str, Any] = reference.get("protocol", {}).get(
    "networks", {}
  )
  return {
    "num_samples": run.spec.evaluate.num_samples,
    "features": "+".join(
      f"{name}@{about.get('fingerprint', '')[:16]}"
      for name, about in networks.items()
    ),
  }


def _number(value: Any) -> Any:
  return f"{value:.6g}" if isinstance(value, float) else value
