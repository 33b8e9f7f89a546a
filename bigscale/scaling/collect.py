"""Builds the tables of a sweep from the folders of its runs.

`runs.csv` has one row per run and is the input of `bigscale scaling fit`:

*   `run`: the name of its folder. `blocks`, and one column per axis.
*   `status`: `done`, `collapsed`, `failed` or `running`. A run has collapsed
    if its values were not finite, the monitor stopped it, its score rose above
    twice the best earlier one and stayed there, or D was dead at the end.
    `collapsed_step` and `collapsed_by` give the first cause: `end`, `score` or
    `dead D`.
*   Planned cost: `steps`, `images`, `flops`. Properties: `parameters` (also
    `_g`, `_d`), `global_batch_size`, `d_steps`, `dataset_images` (per epoch),
    `classes`, `seed`. These are read from the run's own spec.json and events,
    not from the sweep's config, which may have changed. They are empty if the
    run failed before it recorded them.
*   Every score at the last evaluation. For a collapsed run it is the last
    evaluation before the collapse. A score that could not be computed is empty
    and listed in `missing_scores`, a column that is absent if no score is
    missing. `best_NAME` is the best value of the watched score over all
    evaluations. `floor_NAME` is the score of held-out real images.
*   The protocol: `num_samples`, and `features` with a fingerprint per network.
*   `in_config`: `no` if the sweep's config no longer names the run.

`curves.csv` has one row per evaluation, with the cost up to that step and the
scores. Rows from the collapse on have the status `collapsed`. Their scores are
still upper bounds, but weak ones.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath

from bigscale.monitor.dead import dead_step
from bigscale.monitor.scoring import lost_step
from bigscale.place import open_place
from bigscale.report.missing import Missing, missing_scores
from bigscale.report.read import Run, read_whatever
from bigscale.scaling.folders import folder_of
from bigscale.scaling.network_cost import parameters
from bigscale.scaling.runs import RunOutcome, outcome_of
from bigscale.scaling.sweep import SweepRun
from bigscale.spec import ImageCount, RunSpec, from_json
from bigscale.train.folder import write_whole
from bigscale.train.meter import Meter

Row = dict[str, Any]
# Columns of runs.csv that curves.csv repeats.
_REPEATED_COLUMNS = (
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
  "in_config",
)


def write_tables(
  out: epath.Path, runs: Sequence[SweepRun], dropped: Sequence[SweepRun] = ()
) -> list[Row]:
  """Writes runs.csv and curves.csv of the runs that have started.

  Args:
    out: folder of the sweep.
    runs: runs of the sweep.
    dropped: runs that the sweep's config no longer names.

  Returns:
    The rows of runs.csv.
  """
  begun = [
    (run, read_whatever(folder), named)
    for of, named in ((runs, "yes"), (dropped, "no"))
    for run in of
    if open_place(folder := folder_of(out, run)).entry("spec.json")
    # A run that failed before it started has an outcome but no spec.json.
    or outcome_of(out, run)
  ]
  rows = [
    row_of(out, run, record) | {"in_config": named}
    for run, record, named in begun
  ]
  curves = [
    row
    for (run, record, _), ended in zip(begun, rows, strict=True)
    for row in curve_of(run, record, ended)
  ]
  for run, record, _ in begun:
    _warn_of_changes(run, record)
  write_whole(out / "runs.csv", as_csv(rows))
  write_whole(out / "curves.csv", as_csv(curves))
  return rows


def _warn_of_changes(run: SweepRun, record: Run) -> None:
  """Logs settings that changed during a run and affect its results."""
  for event in record.history:
    if event.get("event") == "setting_changed" and event.get("consequence"):
      logging.warning(
        "run %s changed %s from %s to %s at step %s; its row has the new value",
        run.folder or run.name,
        *(event.get(name) for name in ("setting", "old", "new", "step")),
      )


def row_of(out: epath.Path, run: SweepRun, record: Run) -> Row:
  """Returns a run's row of runs.csv; see the module docstring."""
  outcome = outcome_of(out, run)
  row = {
    "run": run.folder or run.name,
    "blocks": "+".join(run.blocks),
    **run.values,
    "status": outcome.status if outcome else "running",
    "collapsed_step": None,
    "collapsed_by": None,
  }
  # The sweep's config may have changed since the run started.
  spec = _recorded_spec(record)
  watched = spec.best_score if spec else ""
  scored = _scored(spec, record) if spec else []
  if outcome and outcome.is_final:
    collapsed, why = _collapse_of(outcome, scored, spec, record)
    row["status"] = "done" if collapsed is None else "collapsed"
    row["collapsed_step"], row["collapsed_by"] = collapsed, why
    if collapsed is not None:
      scored = [score for score in scored if score["step"] < collapsed]
  if spec is None:
    return row
  last = scored[-1] if scored else {}
  best = min(
    (score[watched] for score in scored if watched in score),
    key=lambda value: -value if spec.evaluate.rises(watched) else value,
    default=None,
  )
  missing = _missing(record, last.get("step", 0), row["collapsed_step"])
  names = [each.score for each in missing]
  # An older value of a missing score is not the run's final score.
  missing_columns = {column for each in missing for column in each.columns}
  last = {k: v for k, v in last.items() if k not in missing_columns}
  return row | {
    **_costs(spec, record, outcome),
    "dataset_images": _last(record, "start").get("dataset_images"),
    **{name: last.get(name) for name in spec.evaluate.columns},
    f"best_{watched}": best,
    **{
      f"floor_{name}": record.reference.get(f"{name}_floor")
      for name in spec.evaluate.columns
    },
    **_protocol(spec, record),
    "seconds": record.seconds,
    **({"missing_scores": "+".join(names)} if names else {}),
  }


def curve_of(run: SweepRun, record: Run, ended: Row) -> list[Row]:
  """Returns a run's rows of curves.csv in the order of steps.

  Args:
    run: run of the sweep.
    record: contents of the run's folder.
    ended: the run's row of runs.csv.
  """
  spec = _recorded_spec(record)
  if spec is None:
    return []
  count = _count(spec, record)
  meter = Meter(spec, count=count)
  collapsed = ended["collapsed_step"]
  about = {
    k: v for k, v in ended.items() if k in (*_REPEATED_COLUMNS, *run.values)
  }
  return [
    {
      **about,
      **row,
      "status": "done"
      if collapsed is None or row["step"] < collapsed
      else "collapsed",
      "images": count.images(row["step"]),
      "flops": meter.totals(row["step"]).get("perf/total_flops"),
    }
    for row in _scored(spec, record)
  ]


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
  """Returns CSV text with the union of all columns; None is an empty cell."""
  rows = list(rows)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  text = io.StringIO()
  writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
  writer.writeheader()
  writer.writerows(
    {k: "" if v is None else _number(v) for k, v in row.items()} for row in rows
  )
  return text.getvalue()


def _recorded_spec(record: Run) -> RunSpec | None:
  """Returns the spec that a run recorded, or None if it never started."""
  return from_json(record.spec) if record.spec else None


def _collapse_of(
  outcome: RunOutcome, scored: list[Row], spec: RunSpec | None, record: Run
) -> tuple[int | None, str | None]:
  """Returns the step and cause of a run's collapse, or (None, None)."""
  watched = spec.best_score if spec else ""
  series = [(row["step"], row[watched]) for row in scored if watched in row]
  if series and spec.evaluate.rises(watched):
    # The inverse of a rising score falls. The check is
    # skipped for negative values, because half of such a score is not worse.
    negative = any(value < 0 for _, value in series)
    series = [
      (step, 1 / value if value else math.inf)
      for step, value in (() if negative else series)
    ]
  found = {
    "end": outcome.step if outcome.status == "lost" else None,
    "score": lost_step(series, None),
    "dead D": dead_step(record.rows),
  }
  known = [(step, cause) for cause, step in found.items() if step is not None]
  return min(known, default=(None, None))


def _scored(spec: RunSpec, record: Run) -> list[Row]:
  """Returns each evaluated step with the scores that were computed."""
  found = []
  for row in record.rows:
    scores = {
      name: row[f"eval/{name}"]
      for name in spec.evaluate.columns
      if f"eval/{name}" in row
    }
    if scores:
      found.append({"step": row["step"], **scores})
  return found


def _missing(record: Run, step: int, collapsed: int | None) -> list[Missing]:
  """Returns scores that could not be computed at `step` or later.

  Args:
    record: contents of the run's folder.
    step: step of the last row with scores.
    collapsed: step from which scores are ignored, or None.
  """
  return [
    missing
    for missing in missing_scores(record)
    if missing.steps[-1] >= step
    and (collapsed is None or missing.steps[-1] < collapsed)
  ]


def _last(record: Run, kind: str) -> Row:
  """Returns the last event of a kind, or {} if there is none."""
  found = [event for event in record.events if event.get("event") == kind]
  return found[-1] if found else {}


def _costs(spec: RunSpec, record: Run, outcome: RunOutcome | None) -> Row:
  done = outcome is not None and outcome.status == "done"
  count = _count(spec, record)
  steps = outcome.step if done else count.step_of(spec.total_kimg)
  counted = parameters(spec.model)._asdict()
  # The run's own count takes precedence: another version may have trained it.
  counted |= _last(record, "start").get("parameters", {})
  return {
    "steps": steps,
    "images": count.images(steps),
    "flops": Meter(spec, count=count).totals(steps).get("perf/total_flops"),
    "parameters": counted["g"] + counted["d"],
    "parameters_g": counted["g"],
    "parameters_d": counted["d"],
    "global_batch_size": spec.global_batch_size,
    "d_steps": spec.optim.d_steps,
    "classes": spec.data.classes or spec.model.num_classes or None,
    "seed": spec.seed,
  }


def _count(spec: RunSpec, record: Run) -> ImageCount:
  """Returns a run's image count, including changes of its batch size."""
  if not record.counts:
    return spec.count
  return record.counts[max(record.counts)]


def _protocol(spec: RunSpec, record: Run) -> Row:
  reference = _last(record, "reference")
  networks: Mapping[str, Any] = reference.get("protocol", {}).get(
    "networks", {}
  )
  return {
    "num_samples": spec.evaluate.num_samples,
    "features": "+".join(
      f"{name}@{about.get('fingerprint', '')[:16]}"
      for name, about in networks.items()
    ),
  }


def _number(value: Any) -> Any:
  return f"{value:.6g}" if isinstance(value, float) else value
