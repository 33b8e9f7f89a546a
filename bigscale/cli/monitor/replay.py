r"""Judge a recorded training as the collapse monitor would have.

  bigscale monitor replay TRACE.csv --json
  bigscale monitor replay RUN_DIR
  bigscale monitor replay TRACE.csv --warmup=1000 --set=limit=30 \
      --set=patience=10 --kinks=5000,20000

Reads a CSV file with a header `step,<scalar name>,...` (cells may be missing,
any subset of signals will do, names of other libraries are recognised by their
words), or a run's folder or its metrics.jsonl. It prints the alarms and the
last step that is known to be healthy.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from bigscale.cli.flags import Flags
from bigscale.spec import SpecError, VerdictSpec, require

FLAGS = Flags()
FLAGS.bool("json", False, "print JSON")
FLAGS.integer(
  "warmup",
  None,
  "steps from the first on in which only numbers that are not finite "
  "count; the run's setting if not given, at most a fifth of the trace",
)
FLAGS.multi_string("set", [], "KEY=VALUE of monitor.verdict; may be repeated")
FLAGS.list(
  "kinks",
  [],
  "steps at which a schedule bends or something else was changed on purpose",
)
FLAGS.integer(
  "attempt", None, "of a run that was rolled back; the last if not given"
)


def run(path: str = "") -> int:
  """Judges a recorded training."""
  from bigscale.monitor import trace

  require(
    bool(path), "monitor replay of what? Use: bigscale monitor replay TRACE.csv"
  )
  require(
    FLAGS.warmup is None or FLAGS.warmup >= 0,
    f"--warmup={FLAGS.warmup} must not be negative",
  )
  spec = _set(_spec_of(path), FLAGS.set)
  recorded = trace.read_trace(path, FLAGS.attempt)
  found = trace.replay(recorded, spec, _kinks(FLAGS.kinks), FLAGS.warmup)
  print(json.dumps(found, indent=2) if FLAGS.json else _text(found))
  return 0


def _spec_of(path: str) -> VerdictSpec:
  """What the run was judged by, where `path` is a run that says so."""
  try:
    written = json.loads((pathlib.Path(path) / "spec.json").read_bytes())
    settings = written["spec"]["monitor"]["verdict"]
    return VerdictSpec(**settings)
  except (OSError, ValueError, KeyError, TypeError):
    return VerdictSpec()


def _set(spec: VerdictSpec, settings: list[str]) -> VerdictSpec:
  types = {field.name: field.type for field in dataclasses.fields(spec)}
  changes: dict[str, int | float] = {}
  for setting in settings:
    key, equals, value = setting.partition("=")
    require(
      bool(equals) and key in types,
      f"--set={setting} is no KEY=VALUE of monitor.verdict; keys: "
      f"{', '.join(types)}",
    )
    try:
      changes[key] = types[key](value)
    except ValueError:
      raise SpecError(
        f"--set={setting}: {value!r} is no {types[key].__name__}"
      ) from None
    require(
      math.isfinite(changes[key]),
      f"--set={setting}: {value!r} is no finite number",
    )
  return dataclasses.replace(spec, **changes)


def _kinks(steps: list[str]) -> list[int]:
  try:
    return [int(step) for step in steps]
  except ValueError:
    raise SpecError(
      f"--kinks={','.join(steps)} must be steps, as 5000,20000"
    ) from None


def _text(found: dict[str, Any]) -> str:
  lines = []
  for alarm in found["alarms"]:
    value, reference = alarm["value"], alarm["reference"]
    shown = "not a finite number" if value is None else f"{value:.4g}"
    if reference is not None:
      shown += f", reference {reference:.4g}"
    lines.append(
      f"step {alarm['step']}: {alarm['level']} since {alarm['onset']}: "
      f"{alarm['signal']} is {alarm['rule']} ({shown})"
    )
    if alarm["also"]:
      lines.append(f"  also {', '.join(alarm['also'])}")
  healthy = found["healthy_step"]
  known = "not known" if healthy is None else str(healthy)
  lines += [f"last healthy step: {known}", *found["notes"]]
  return "\n".join(lines)
