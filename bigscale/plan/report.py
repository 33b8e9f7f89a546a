"""A plan for people: a table of one, of several, or of a change.

A plan is a dictionary of JSON values, all of one device and one step:

    topology, devices, mesh, global_batch_size, model, effort, versions,
      compiler_options
    precision (of the spec), float32_products {network | half | elsewhere:
      {precision: {count, flops, cycles_seconds}}}
    fits, hbm_bytes_per_device (at the fullest moment), hbm_limit_bytes,
      hbm_shortfall_bytes (of one that does not fit), memory (its parts)
    flops_per_step_per_device (of the program as compiled), estimated_mfu
    estimated_step_seconds = cycles_seconds
      + collective_seconds.sync (nothing else runs)
      + collective_seconds.exposed (what of .async no other work hides)
    cycles, categories and phases (seconds of cycles), breakdown (shares)
    collectives {kind: {count, bytes, asynchronous, seconds}}
    longest_collectives [{kind, dtype, group_size (0 between slices), where,
      asynchronous, count, bytes, seconds}]
    parameters {g, d}, images_per_second, compile_seconds
    uncosted {opcode: count}, warnings, advice

Times, FLOPs and images a second are null where the program does not fit.
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
# Of the longest collectives, in a table.
_LISTED = 6
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
  """One plan as a table."""
  mesh, batch = plan["mesh"], plan["global_batch_size"]
  g, d = (f"{plan['parameters'][one] / 1e6:.3g} M" for one in ("g", "d"))
  rows = [
    ("model", f"{plan['model']}, G {g}, D {d} parameters"),
    (
      "topology",
      f"{plan['topology']}, {plan['devices']} devices, data {mesh['data']} x "
      f"fsdp {mesh['fsdp']}, weights {mesh['weights']}",
    ),
    ("batch", f"{batch}, {batch // plan['devices']} a device"),
    (
      "memory",
      f"{_gib(plan['hbm_bytes_per_device'])} of "
      f"{_gib(plan['hbm_limit_bytes'])} GiB a device, of which state "
      f"{_gib(plan['memory']['state'])}: "
      + ("fits" if plan["fits"] else "does not fit"),
    ),
  ]
  if plan["estimated_step_seconds"] is not None:
    rows += _times(plan)
  rows.append(
    ("compiled", f"in {plan['compile_seconds']:.0f} s, effort {plan['effort']}")
  )
  # Plans of earlier versions do not tell.
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
      f"{_ms(apart['sync'])} collectives + {_ms(apart['exposed'])} not hidden "
      f"of {_ms(apart['async'])} asynchronous",
    ),
    (
      "images",
      f"{plan['images_per_second']:.0f} a second, "
      f"{teraflops:.3f} TFLOP a step and device, "
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
  for one in plan["longest_collectives"][:_LISTED]:
    over = f"over {one['group_size']} at " if one["group_size"] else "at "
    rows.append((f"  {one['dtype']}", f"{_traffic(one)} {over}{one['where']}"))
  return rows


def _float32(plan: Plan) -> list[tuple[str, str]]:
  """How exact products of float32 are, and what other choices would cost."""
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
      ("", f"the networks' by proportion: {others} (model.precision)")
    )
  return rows


def _traffic(one: Mapping[str, Any]) -> str:
  size, seconds = one["bytes"] / 1e6, _ms(one["seconds"])
  return f"{one['count']} x, {size:.3g} MB, {seconds} ms"


def table(plans: Sequence[Plan]) -> str:
  """Several plans, one a line; a plan that failed has only an `error`."""
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
  """Reads a plan that was written with --json.

  Raises:
    SpecError: there is none.
  """
  try:
    plan = json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise SpecError(
      f"--baseline={path} cannot be read ({error}); give a file written with "
      "bigscale plan --json"
    ) from error
  if not isinstance(plan, dict) or "estimated_step_seconds" not in plan:
    raise SpecError(
      f"--baseline={path} is no plan; give one written with bigscale plan "
      "--json"
    )
  return plan


def compare(new: Plan, old: Plan) -> dict[str, dict[str, float | None]]:
  """Relative changes since an earlier plan.

  Args:
    new: plan.
    old: plan.

  Returns:
    {quantity: {"old", "new", "change"}}; `change` is new / old - 1, None
    where there is nothing to divide by.

  Raises:
    SpecError: they are of different topologies or efforts.
  """
  for key in _MUST_AGREE:
    if new[key] != old.get(key):
      raise SpecError(
        f"the baseline has {key} {old.get(key)!r} and this plan {new[key]!r}, "
        "which do not compare; plan both alike"
      )
  changes = {}
  for name in (*_COMPARED, *_collective_keys(new, old)):
    before, after = _value(old, name), _value(new, name)
    change = after / before - 1 if before and after is not None else None
    changes[name] = {"old": before, "new": after, "change": change}
  return changes


def comparison_text(changes: Mapping[str, Mapping[str, float | None]]) -> str:
  """What `compare` found, as a table."""
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
  """Left-aligned columns."""
  count = max(map(len, rows))
  widths = [
    # A message in place of numbers may be as long as it likes.
    max(len(row[at]) for row in rows if len(row) == count)
    for at in range(count)
  ]
  return [
    "  ".join(
      f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)
    ).rstrip()
    for row in rows
  ]
