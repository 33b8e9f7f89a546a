"""Formats plans as text, and compares them.

A plan is a dictionary of JSON values. Costs are per device and step:

    topology, devices, mesh, global_batch_size, model, effort, versions,
      compiler_options
    precision (of the spec), float32_products {network | half | elsewhere:
      {precision: {count, flops, cycles_seconds}}}
    fits, hbm_bytes_per_device (peak), hbm_limit_bytes,
      hbm_shortfall_bytes (if it does not fit), memory (breakdown)
    flops_per_step_per_device (of the compiled program), estimated_mfu
    estimated_step_seconds = cycles_seconds
      + collective_seconds.sync (nothing else runs)
      + collective_seconds.exposed (part of .async that does not overlap)
    cycles, categories and phases (seconds of cycles), breakdown (shares)
    collectives {kind: {count, bytes, asynchronous, seconds}}
    longest_collectives [{kind, dtype, group_size (0 between slices), where,
      asynchronous, count, bytes, seconds}]
    parameters {g, d}, images_per_second, compile_seconds
    uncosted {opcode: count}, warnings, advice

Times, FLOP and images per second are null if the program does not fit.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.plan import precision
from bigscale.plan.topology import GIB
from bigscale.spec import SpecError

Plan = Mapping[str, Any]

_MUST_AGREE = ("topology", "effort")
_COMPARED = (
  "estimated_step_seconds",
  "cycles_seconds",
  "collective_seconds.sync",
  "collective_seconds.exposed",
  "collective_seconds.async",
  "hbm_bytes_per_device",
  "flops_per_step_per_device",
  "estimated_mfu",
)
_PLACES = {
  "network": "of the networks",
  "half": "in gradients of bfloat16 stages",
  "elsewhere": "elsewhere",
}
# Maximum number of longest collectives in the text.
_MAX_LISTED = 6
_HEAD = (
  "topology",
  "weights",
  "fsdp",
  "HBM GiB",
  "fits",
  "step ms",
  "cycles",
  "sync",
  "exposed",
  "MFU",
  "img/s",
)


def text(plan: Plan) -> str:
  """Returns a plan as text."""
  mesh, batch = plan["mesh"], plan["global_batch_size"]
  g, d = (f"{plan['parameters'][one] / 1e6:.3g} M" for one in ("g", "d"))
  rows = [
    ("model", f"{plan['model']}, G {g}, D {d} parameters"),
    (
      "topology",
      f"{plan['topology']}, {plan['devices']} devices, data {mesh['data']} x "
      f"fsdp {mesh['fsdp']}, weights {mesh['weights']}",
    ),
    ("batch", f"{batch}, {batch // plan['devices']} per device"),
    (
      "memory",
      f"{_gib(plan['hbm_bytes_per_device'])} of "
      f"{_gib(plan['hbm_limit_bytes'])} GiB per device, including "
      f"{_gib(plan['memory']['state'])} GiB of state; the run "
      + ("fits" if plan["fits"] else "does not fit"),
    ),
  ]
  if plan["estimated_step_seconds"] is not None:
    rows += _times(plan)
  rows.append(
    ("compiled", f"in {plan['compile_seconds']:.0f} s, effort {plan['effort']}")
  )
  # Plans of earlier versions have no compiler options.
  options = plan.get("compiler_options", {})
  rows += [
    ("" if i else "with", f"{name}={options[name]}")
    for i, name in enumerate(sorted(options))
  ]
  lines = _aligned(rows)
  for title in ("advice", "warnings"):
    if plan[title]:
      lines += ["", f"{title}:", *(f"- {one}" for one in plan[title])]
  return "\n".join(lines)


def _times(plan: Plan) -> list[tuple[str, str]]:
  apart, total = plan["collective_seconds"], plan["estimated_step_seconds"]
  teraflops = plan["flops_per_step_per_device"] / 1e12
  rows = [
    (
      "step",
      f"{_ms(total)} ms = {_ms(plan['cycles_seconds'])} cycles + "
      f"{_ms(apart['sync'])} synchronous collectives + "
      f"{_ms(apart['exposed'])} exposed of {_ms(apart['async'])} asynchronous",
    ),
    (
      "images",
      f"{plan['images_per_second']:.0f} per second, "
      f"{teraflops:.3f} TFLOP per step and device, "
      f"MFU {plan['estimated_mfu']:.1%}",
    ),
  ]
  for name, share in sorted(plan["breakdown"].items(), key=lambda one: -one[1]):
    if share >= 0.0005:
      rows.append((f"  {name}", f"{share:6.1%}  {_ms(share * total)} ms"))
  for name, seconds in plan["phases"].items():
    rows.append((f"  {name}", f"{_ms(seconds):>6} ms of cycles"))
  rows += _float32(plan)
  for kind, one in plan["collectives"].items():
    waiting = one["count"] - one["asynchronous"]
    rows.append((kind, f"{_traffic(one)}, {waiting} of them synchronous"))
  for one in plan["longest_collectives"][:_MAX_LISTED]:
    over = f"over {one['group_size']} at " if one["group_size"] else "at "
    rows.append((f"  {one['dtype']}", f"{_traffic(one)} {over}{one['where']}"))
  return rows


def _float32(plan: Plan) -> list[tuple[str, str]]:
  """Returns rows on the precision of float32 products and its alternatives."""
  found, stated = plan["float32_products"], plan["precision"]
  rows = []
  for place, by_precision in sorted(found.items()):
    for name, one in by_precision.items():
      seconds = _ms(one["cycles_seconds"])
      rows.append(
        (
          "float32",
          f"{one['count']} products {_PLACES[place]} at {name} "
          f"({precision.MEANING[name]}), {seconds} ms of cycles",
        )
      )
  others = ", ".join(
    f"{_ms(seconds)} at {name}"
    for name, seconds in precision.estimates(found, stated).items()
    if name != stated
  )
  if "network" in found:
    rows.append(
      (
        "",
        f"estimate for the networks at another model.precision: {others}",
      )
    )
  return rows


def _traffic(one: Mapping[str, Any]) -> str:
  size, seconds = one["bytes"] / 1e6, _ms(one["seconds"])
  return f"{one['count']} x, {size:.3g} MB, {seconds} ms"


def table(plans: Sequence[Plan]) -> str:
  """Returns several plans, one per line, or their `error` if they failed."""
  return "\n".join(_columns([_HEAD, *map(_row, plans)]))


def _row(plan: Plan) -> tuple[str, ...]:
  if "error" in plan:
    mesh = plan["mesh"]
    return (plan["topology"], mesh["weights"], str(mesh["fsdp"]), plan["error"])
  apart = plan.get("collective_seconds")
  times: tuple[str, ...] = ("-",) * 6
  if apart:
    times = (
      _ms(plan["estimated_step_seconds"]),
      _ms(plan["cycles_seconds"]),
      _ms(apart["sync"]),
      _ms(apart["exposed"]),
      f"{plan['estimated_mfu']:.1%}",
      f"{plan['images_per_second']:.0f}",
    )
  return (
    plan["topology"],
    plan["mesh"]["weights"],
    str(plan["mesh"]["fsdp"]),
    _gib(plan["hbm_bytes_per_device"]),
    "yes" if plan["fits"] else "no",
    *times,
  )


def load(path: str) -> Plan:
  """Reads a plan from a file written with --json.

  Raises:
    SpecError: the file cannot be read or contains no plan.
  """
  try:
    plan = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise SpecError(
      f"--baseline={path} cannot be read ({error}); pass a file written with "
      "bigscale plan --json"
    ) from error
  if not isinstance(plan, dict) or "estimated_step_seconds" not in plan:
    raise SpecError(
      f"--baseline={path} is not a plan; pass a file written with bigscale "
      "plan --json"
    )
  return plan


def compare(new: Plan, old: Plan) -> dict[str, dict[str, float | None]]:
  """Returns the relative changes between two plans.

  Args:
    new: new plan.
    old: earlier plan.

  Returns:
    {quantity: {"old", "new", "change"}}; `change` is new / old - 1, or None if
    it is undefined.

  Raises:
    SpecError: the plans have different topologies or efforts.
  """
  for key in _MUST_AGREE:
    if new[key] != old.get(key):
      raise SpecError(
        f"the baseline has {key} {old.get(key)!r} and this plan has "
        f"{new[key]!r}, which are not comparable; use the same {key} for both"
      )
  changes = {}
  for name in (*_COMPARED, *_collective_keys(new, old)):
    before, after = _value(old, name), _value(new, name)
    change = after / before - 1 if before and after is not None else None
    changes[name] = {"old": before, "new": after, "change": change}
  return changes


def comparison_text(changes: Mapping[str, Mapping[str, float | None]]) -> str:
  """Returns the result of `compare` as a table."""
  rows = [("since the baseline", "old", "new", "change")]
  for name, one in changes.items():
    change = "" if one["change"] is None else f"{one['change']:+.1%}"
    rows.append((name, _number(one["old"]), _number(one["new"]), change))
  return "\n".join(_columns(rows))


def _collective_keys(*plans: Plan) -> list[str]:
  kinds = sorted({kind for plan in plans for kind in plan["collectives"]})
  return [
    f"collectives.{kind}.{of}" for kind in kinds for of in ("count", "bytes")
  ]


def _value(plan: Plan, name: str) -> float | None:
  value: Any = plan
  for key in name.split("."):
    value = (value or {}).get(key)
  return 0 if value is None and name.startswith("collectives.") else value


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.5g}"


def _gib(size: float) -> str:
  return f"{size / GIB:.2f}"


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:.2f}"


def _aligned(rows: Sequence[tuple[str, str]]) -> list[str]:
  width = max(len(name) for name, _ in rows)
  return [f"{name:{width}}  {value}" for name, value in rows]


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
  """Aligns columns to the left."""
  count = max(map(len, rows))
  widths = [
    # Short rows have an error message, which does not widen a column.
    max(len(row[at]) for row in rows if len(row) == count)
    for at in range(count)
  ]
  return [
    "  ".join(
      f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)
    ).rstrip()
    for row in rows
  ]
