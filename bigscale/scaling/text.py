"""Formats the record of a fitted law as text."""

import math
from typing import Any


def as_text(found: dict[str, Any]) -> str:
  """Returns the record of `analysis.record` as a table with messages."""
  names = found["names"]
  lines = [
    found["law"],
    *(f"  {key} = {name}" for key, name in names.items()),
    "",
    f"{'':8}{'value':>12}{'std. error':>12}  95% interval",
  ]
  lines += [_row(name, entry) for name, entry in found["parameters"].items()]
  if found["split"]:
    split = found["split"]
    lines += [_row("p", split["p"]), _row("exponent", split["exponent"])]
    lines += [
      "",
      f"split: {split['assumes']}; then y - E falls as compute^-exponent",
    ]
  return "\n".join(
    [
      *lines,
      "",
      *_runs(found),
      "",
      *_heldout(found["heldout"]),
      *_choices(found["choices"]),
      *_method(found),
    ]
  )


def _row(name: str, entry: dict[str, Any]) -> str:
  value = entry["value"]
  row = f"{name:8}" + ("unknown" if value is None else f"{value:.5g}").rjust(12)
  if entry.get("pinned"):
    return f"{row}{'pinned' if value else 'none':>12}"
  error = entry["standard_error"]
  cell = "-" if error is None else f"{error:.3g}"
  if entry.get("is_bound"):
    cell = "at bound"
  return f"{row}{cell:>12}  {_interval(entry)}"


def _interval(entry: dict[str, Any]) -> str:
  if entry["interval95"] is None:
    return f"none: {entry['reason']}"
  low, high = entry["interval95"]
  if low is None:
    interval = f"at most {high:.4g}"
  elif high is None:
    interval = f"at least {low:.4g}"
  else:
    interval = f"{low:.4g} to {high:.4g}"
    if entry["standard_error"] is not None:
      return interval
  kind = "one-sided; " if None in (low, high) else ""
  return (
    f"{interval} ({kind}{entry['at_bound']:.1%} of resamples at the bound: "
    f"{entry['bound']})"
  )


def _runs(found: dict[str, Any]) -> list[str]:
  counting = sum(entry["counts"] for entry in found["censored"])
  of = (
    f" of {_count(found['runs'], 'run')}"
    if found["runs"] is not None
    else ", each counted as a run (no --group)"
  )
  bounds, excluded = len(found["censored"]), len(found["excluded"])
  lines = [
    f"{_count(found['rows'], 'row')}{of}; {bounds} of them are upper bounds "
    f"from collapsed runs ({counting} below the law); {excluded} excluded, "
    f"{found['filtered']} filtered out"
  ]
  lines += [
    f"  excluded: row {entry['row']}"
    + (f", y {entry['y']:.5g}" if entry["y"] is not None else "")
    + f": {entry['reason']}"
    for entry in found["excluded"]
  ]
  lines += _tuning(found["tuning"])
  lines += [f"protocol: {name} = {v}" for name, v in found["protocol"].items()]
  return lines


def _tuning(tuned: dict[str, Any] | None) -> list[str]:
  if tuned is None:
    return []
  lines = [
    f"best of {tuned['settings']} settings at {tuned['places']} places; "
    f"{_count(tuned['rows_of_other_settings'], 'row')} of other settings"
  ]
  for name, at in tuned["optimum"].items():
    counts = ", ".join(f"{where} {count}" for where, count in at.items())
    lines.append(f"  where the best {name} lies among those tried: {counts}")
  return lines


def _heldout(compared: dict[str, Any]) -> list[str]:
  """Returns the comparison, with one line per form."""
  width = max(len(entry["form"]) for entry in compared["forms"])
  lines = [
    "larger runs predicted from smaller ones (mean |log error|, share within "
    "the 90% interval)"
  ]
  first = compared["forms"][0]["heldout"]
  lines += [
    f"  {times:>4}: {_prediction_counts(times, held)}"
    for times, held in first.items()
  ]
  reasons = {}
  for entry in compared["forms"]:
    cells = []
    for times, held in entry["heldout"].items():
      if held["error"] is None:
        cells.append(f"{times:>4}     -    - ")
      else:
        inside = held["coverage90"]
        share = "   -" if inside is None else f"{inside:4.0%}"
        mark = "*" if compared["best"][times] == entry["form"] else " "
        cells.append(f"{times:>4} {held['error']:.4f} {share}{mark}")
      if "reason" in held:
        reasons[f"{entry['form']}, {times}: {held['reason']}"] = None
    at_bound = ", ".join(entry.get("at_bound", ()))
    note = f"  at a bound: {at_bound}" if at_bound else ""
    lines.append(f"  {entry['form']:{width}}  {'  '.join(cells)}{note}")
  lines += [f"  {reason}" for reason in reasons]
  lines += [f"  {times}: {why}" for times, why in compared["reasons"].items()]
  if any(compared["best"].values()):
    lines.append("  * smallest error among the forms that could be fitted")
  return lines


def _prediction_counts(times: str, held: dict[str, Any]) -> str:
  """Returns the rows that are predicted, and the rows that are fitted."""

  def counted(what: str) -> str:
    runs = held[f"{what}_runs"]
    rows = _count(held[what], "row")
    return rows if runs is None else f"{rows} of {_count(runs, 'run')}"

  aside = held["set_aside"]
  more = (
    f"; {_count(aside, 'earlier row')} of the larger runs not used"
    if aside
    else ""
  )
  return (
    f"{counted('predicted')} from {counted('fitted')} with at most "
    f"1/{times[:-1]} of the largest compute{more}"
  )


def _count(number: int, what: str) -> str:
  return f"{number} {what}" + "s" * (number != 1)


def _choices(choices: list[dict[str, Any]] | None) -> list[str]:
  """Returns the exponents under every choice, with one line per choice."""
  if choices is None:
    return []
  lines = [
    "",
    "other choices: floor, first x2 that is fitted, and the parameters",
  ]
  for entry in choices:
    start = f"  {entry['floor']:>6} {entry['from']:>10.6g}  "
    if entry["parameters"] is None:
      lines.append(f"{start}{entry['reason']}")
      continue
    values = ", ".join(
      f"{name} {entry['parameters'][name]:.4g}"
      for name in ("E", "alpha", "beta")
    )
    if entry["error"] is not None:
      values += (
        f"; held-out runs: error {entry['error']:.3f}, "
        f"seen over forecast {math.exp(entry['signed']):.2f}"
      )
    lines.append(start + values)
  return lines


def _method(found: dict[str, Any]) -> list[str]:
  method, draws = found["method"], found["method"]["bootstrap"]
  return [
    "",
    f"{method['loss']}, delta {method['delta']:g} in units of "
    f"{'their mean size' if method['delta_unit'] == 'scale' else 'log y'} "
    f"({method['delta_of_log_y']:.3g} in log y); mean |log residual| "
    f"{method['mean_abs_log_residual']:.4g}",
    f"{method['starts_agreeing']} of {method['starts']} starts agree; the best "
    f"{'converged' if method['converged'] else 'did NOT converge'}",
    f"bootstrap by {draws['unit']}: {draws['used']} of {draws['resamples']} "
    f"resamples of {draws['clusters']} clusters, seed {draws['seed']}, "
    f"{draws['seconds']} s",
    *(f"warning: {text}" for text in found["warnings"]),
  ]
