"""Computes the title, cards, headline and tables of a run's page."""

import dataclasses
import json
import math
import os
import pathlib
import statistics
from typing import Any

from bigscale.place import is_remote
from bigscale.report.curves import NETWORKS
from bigscale.report.distance import distance_of
from bigscale.report.history import attempt_of, is_number
from bigscale.report.read import Run

_RATE = "perf/images_per_second"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """One of the numbers at the top of the page."""

  label: str
  value: str
  remark: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table with cells as text."""

  header: list[str]
  rows: list[list[str]]


def number(value: Any) -> str:
  """Returns a number with four significant digits, or all digits of an integer.

  Other values become `str(value)`.
  """
  if not is_number(value):
    return str(value)
  if not math.isfinite(value):
    return str(value)
  if float(value).is_integer() and abs(value) < 1e15:
    return f"{int(value):,}"
  if abs(value) >= 1000:
    return f"{value:,.0f}"
  return f"{value:.4g}"


def title(run: Run) -> str:
  """Returns model, data and resolution, or the folder's name if unknown."""
  model = run.setting("model.name")
  source = run.setting("data.source")
  if not model or not source:
    url = run.place.url
    name = url if is_remote(url) else os.path.realpath(url)
    return name.rpartition("/")[2] or "run"
  start = next((e for e in run.events if e.get("event") == "start"), {})
  text = (
    f"{start.get('family') or model} on {pathlib.PurePath(str(source)).name}"
  )
  resolution = run.setting("model.resolution")
  return f"{text}, {resolution} px" if resolution else text


def subtitle(run: Run) -> str:
  """Returns batch size, number of classes, parameters and progress."""
  parts = []
  if run.setting("global_batch_size"):
    parts.append(f"batch {number(run.setting('global_batch_size'))}")
  classes = run.setting("model.num_classes")
  if is_number(classes):
    parts.append(f"{classes} classes" if classes else "no labels")
  for network, count in _parameters(run).items():
    parts.append(f"{number(count)} parameters in {network}")
  if run.rows:
    last = run.rows[-1]
    parts.append(f"step {number(last['step'])}")
    total = run.setting("total_kimg")
    of_total = f" of {number(total)}" if is_number(total) else ""
    parts.append(f"{number(last['kimg'])}{of_total} kimg")
  return " · ".join(parts)


def _parameters(run: Run) -> dict[str, Any]:
  """Returns the parameter counts of G and D, from events or scalars."""
  found = {}
  for event in run.events:
    counts = event.get("parameters")
    if isinstance(counts, dict):
      found |= {k.upper(): v for k, v in counts.items() if is_number(v)}
  for network in NETWORKS:
    _, values = run.series(f"{network}/parameters")
    if values:
      found[network.upper()] = values[-1]
  return found


def cards(run: Run) -> list[Card]:
  """Returns the cards whose numbers are known."""
  found = []
  distance = distance_of(run)
  kimg, distances = _finite(run, distance.scalar)
  if distances:
    best = min(distances)
    at = kimg[distances.index(best)]
    found.append(
      Card(
        label=distance.title,
        value=number(distances[-1]),
        remark=f"best {number(best)} at {number(at)} kimg",
      )
    )
  floor = distance.floor
  if floor is not None:
    remark = ""
    if distances and floor > 0:
      remark = f"samples: {distances[-1] / floor:.3g} times this"
    found.append(
      Card(label="Real vs. real (floor)", value=number(floor), remark=remark)
    )
  _, classes = _finite(run, "eval/classes_present")
  if classes:
    total = run.setting("model.num_classes")
    found.append(
      Card(
        label="Classes present",
        value=f"{number(classes[-1])} / {total}"
        if total
        else number(classes[-1]),
      )
    )
  _, rates = _finite(run, _RATE)
  if rates:
    found.append(
      Card(
        label="Images per second",
        value=number(float(f"{statistics.median(rates):.3g}")),
        remark="median",
      )
    )
  found += _arithmetic(run)
  if run.seconds is not None:
    found.append(Card(label="Wall time", value=duration(run.seconds)))
  return found


def _arithmetic(run: Run) -> list[Card]:
  """Returns the cards of the FLOP count and of the FLOP utilization."""
  found = []
  _, totals = _finite(run, "perf/total_flops")
  _, spent = _finite(run, "perf/spent_flops")
  if totals:
    remark = ""
    if spent and spent[-1] > totals[-1]:
      remark = f"{spent[-1]:.3g} including abandoned attempts"
    found.append(
      Card(label="FLOP so far", value=f"{totals[-1]:.3g}", remark=remark)
    )
  _, shares = _finite(run, "perf/mfu")
  if shares:
    share = f"{100 * statistics.median(shares):.1f} %"
    found.append(
      Card(label="Model FLOP utilization", value=share, remark="median")
    )
  return found


def headline(run: Run) -> list[tuple[str, str]]:
  """Returns the first evaluation, reference values and classifier accuracy."""
  facts = []
  distance = distance_of(run)
  kimg, distances = _finite(run, distance.scalar)
  if len(distances) > 1:
    facts.append(
      (
        "First evaluation",
        f"{number(distances[0])} at {number(kimg[0])} kimg"
        + _ratio(distances[0], distances[-1], "the last"),
      )
    )
  for label, value in distance.levels.items():
    if value != distance.floor:
      last = distances[-1] if distances else 0.0
      text = number(value) + _ratio(value, last, "the samples' distance")
      facts.append((label[0].upper() + label[1:], text))
  accuracy = run.reference.get("classifier_accuracy")
  if accuracy is not None:
    facts.append(("Classifier accuracy", f"{100 * accuracy:.1f} %"))
  _, agreement = _finite(run, "eval/label_agreement")
  if agreement:
    facts.append(
      ("Samples classified as their label", f"{100 * agreement[-1]:.1f} %")
    )
  return facts


def _ratio(value: float, unit: float, of: str) -> str:
  return f" ({value / unit:.3g} times {of})" if unit > 0 else ""


def changed_settings(run: Run) -> list[tuple[str, str]]:
  """Returns the step of each settings change, with the old and new value."""
  rows = []
  for event in run.events:
    if event.get("event") != "setting_changed":
      continue
    kimg = run.kimg_at(event.get("step", 0), attempt_of(event))
    old, new = (
      json.dumps(event.get(name), ensure_ascii=False) for name in ("old", "new")
    )
    change = f"{event.get('setting')}: {old} to {new}"
    if event.get("consequence"):
      change += f"; {event['consequence']}"
    after = f"step {number(event.get('step', ''))}"
    after += "" if kimg is None else f", {number(kimg)} kimg"
    rows.append((after, change))
  return rows


def evaluations(run: Run) -> Table:
  """Returns a table with one evaluation per row."""
  names = [name for name in run.names() if name.startswith("eval/")]
  rows = [
    [number(row["step"]), number(row["kimg"])]
    + [number(row[name]) if name in row else "" for name in names]
    for row in _evaluated(run)
  ]
  header = ["step", "kimg", *(name.removeprefix("eval/") for name in names)]
  return Table(header=header, rows=rows)


def best_evaluation(run: Run) -> int | None:
  """Returns the index of the row of `evaluations` with the lowest distance."""
  name = distance_of(run).scalar
  distances = [row.get(name) for row in _evaluated(run)]
  finite = [d for d in distances if is_number(d) and math.isfinite(d)]
  return distances.index(min(finite)) if finite else None


def _evaluated(run: Run) -> list[dict[str, Any]]:
  return [
    row for row in run.rows if any(name.startswith("eval/") for name in row)
  ]


def _finite(run: Run, name: str) -> tuple[list[float], list[float]]:
  x, y = run.series(name)
  kept = [i for i, value in enumerate(y) if math.isfinite(value)]
  return [x[i] for i in kept], [y[i] for i in kept]


def duration(seconds: float) -> str:
  """Returns seconds in the two largest units, such as "2 h 5 min"."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  days, hours = divmod(hours, 24)
  if days:
    return f"{days} d {hours} h"
  if hours:
    return f"{hours} h {minutes} min"
  return f"{minutes} min {rest} s" if minutes else f"{rest} s"
