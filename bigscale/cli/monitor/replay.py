r"""Run the collapse monitor on the metrics of a recorded run.

Example:
  bigscale monitor replay RUN_DIR

Prints the alarms and the last step that is known to be healthy. The input is a
run's folder, its metrics.jsonl, or the log of another trainer:
  - a CSV file with the header `step,<scalar name>,...`, whose cells may be
    empty, also one exported by Weights & Biases
  - JSON lines with a step
  - the log folder of BigGAN-PyTorch (files `NAME.log`)
  - the run folder of StyleGAN2-ADA, StyleGAN3 or R3GAN (`stats.jsonl`)
  - a folder of TensorBoard events (needs `pip install tensorboard`)
Scalar names of other libraries are matched by their words.

More examples:
  bigscale monitor replay TRACE.csv --json
  bigscale monitor replay TRACE.csv --warmup=1000 --kinks=5000,20000 \
      --set=rollback_rows=1e6
"""

import dataclasses
import json
import math
from typing import Any

from bigscale.cli.flags import Flags
from bigscale.place import open_place
from bigscale.spec import SpecError, VerdictSpec, require

FLAGS = Flags()
FLAGS.heading("Monitor")
FLAGS.integer(
  "warmup",
  None,
  "Number of first steps in which only non-finite scalars raise an alarm. "
  "Default: the run's setting, but at most a fifth of the trace.",
)
FLAGS.multi_string(
  "set", [], "Override of one field of monitor.verdict, KEY=VALUE."
)
FLAGS.list(
  "kinks",
  [],
  "Steps at which a schedule starts or ends, or at which something else was "
  "changed on purpose. The folder of a run adds what it declares.",
)
FLAGS.heading("Input and output")
FLAGS.integer(
  "attempt", None, "Attempt of a run with rollbacks. Default: the last."
)
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints the alarms of a recorded run."""
  from bigscale.monitor import declared, trace

  require(
    bool(path),
    "monitor replay needs a path: bigscale monitor replay TRACE.csv",
  )
  require(
    FLAGS.warmup is None or FLAGS.warmup >= 0,
    f"--warmup={FLAGS.warmup} must not be negative",
  )
  spec = _set(_spec_of(path), FLAGS.set)
  recorded = trace.read_trace(path, FLAGS.attempt)
  kinks = _kinks(FLAGS.kinks)
  known = declared.declared_steps(path, FLAGS.attempt)
  found = trace.replay(recorded, spec, [*kinks, *known], FLAGS.warmup)
  if known:
    steps = ", ".join(map(str, known))
    found["notes"].append(
      f"changes that the run declares are not judged: steps {steps}"
    )
  print(json.dumps(found, indent=2) if FLAGS.json else _text(found))
  return 0


def _spec_of(path: str) -> VerdictSpec:
  """Returns the verdict spec of a run's folder, or the default spec."""
  try:
    written = json.loads(open_place(path).read("spec.json"))
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
      f"--set={setting} must be KEY=VALUE with a key of monitor.verdict: "
      f"{', '.join(types)}",
    )
    try:
      changes[key] = types[key](value)
    except ValueError:
      raise SpecError(
        f"--set={setting}: {value!r} is not of type {types[key].__name__}"
      ) from None
    require(
      math.isfinite(changes[key]),
      f"--set={setting}: {value!r} is not a finite number",
    )
  return dataclasses.replace(spec, **changes)


def _kinks(steps: list[str]) -> list[int]:
  try:
    return [int(step) for step in steps]
  except ValueError:
    raise SpecError(
      f"--kinks={','.join(steps)} must be steps, like 5000,20000"
    ) from None


def _text(found: dict[str, Any]) -> str:
  lines = []
  for alarm in found["alarms"]:
    value, reference = alarm["value"], alarm["reference"]
    shown = "not a finite number" if value is None else f"{value:.4g}"
    if reference is not None:
      shown = f"{reference:.4g} to {shown}"
    lines.append(
      f"step {alarm['step']}: {alarm['level']} since {alarm['onset']}: "
      f"{alarm['signal']} ({shown}) {alarm['rule']}"
    )
    if alarm["also"]:
      lines.append(f"  also {', '.join(alarm['also'])}")
  healthy = found["healthy_step"]
  known = "not known" if healthy is None else str(healthy)
  lines += [f"last healthy step: {known}", *found["notes"]]
  return "\n".join(lines)
