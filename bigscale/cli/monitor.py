r"""Judge recorded trainings as the collapse monitor would have, or drill it.

  bigscale monitor replay TRACE.csv --json
  bigscale monitor replay RUN_DIR
  bigscale monitor replay TRACE.csv --warmup=1000 --set=limit=30 \
      --set=patience=10 --kinks=5000,20000

`replay` reads a CSV file with a header `step,<scalar name>,...` (cells may be
missing, any subset of signals will do, names of other libraries are recognised
by their words), or a run's folder or its metrics.jsonl. It prints the alarms
and the last step that is known to be healthy.

  bigscale monitor drill --out=runs/drills
  bigscale monitor drill --out=runs/drills --only=lr_both_100,d_spikes --json
  bigscale monitor drill --out=runs/drills --part=1/2

`drill` puts faults into small real trainings on CPU, about a minute each, and
prints how the monitor did. Drills that have a row in DIR/drills.jsonl are not
run again: stop it and start it at will, or start several with `--part`.
"""

import dataclasses
import json
import math
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from bigscale.cli.common import Subcommand, part_of, require_flag

if TYPE_CHECKING:
  from bigscale.spec.verdict import VerdictSpec

REPLAY, DRILL = flags.FlagValues(), flags.FlagValues()
for _values in (REPLAY, DRILL):
  flags.DEFINE_bool("json", False, "print JSON", flag_values=_values)
flags.DEFINE_integer(
  "warmup",
  None,
  "steps from the first on in which only numbers that are not finite "
  "count; the run's setting if not given, at most a fifth of the trace",
  flag_values=REPLAY,
)
flags.DEFINE_multi_string(
  "set",
  [],
  "KEY=VALUE of monitor.verdict; may be repeated",
  flag_values=REPLAY,
)
flags.DEFINE_list(
  "kinks",
  [],
  "steps at which a schedule bends or something else was changed on purpose",
  flag_values=REPLAY,
)
flags.DEFINE_integer(
  "attempt",
  None,
  "of a run that was rolled back; the last if not given",
  flag_values=REPLAY,
)
flags.DEFINE_string("out", None, "folder of rows and runs", flag_values=DRILL)
flags.DEFINE_list(
  "only",
  [],
  "faults and controls by name; all if empty",
  flag_values=DRILL,
)
flags.DEFINE_enum(
  "group",
  "test",
  ("test", "tuning"),
  "the runs that thresholds were chosen on, or others",
  flag_values=DRILL,
)
flags.DEFINE_integer(
  "fault_seeds",
  2,
  "runs of each fault and model",
  lower_bound=0,
  flag_values=DRILL,
)
flags.DEFINE_integer(
  "control_seeds",
  3,
  "runs of each control and model",
  lower_bound=0,
  flag_values=DRILL,
)
flags.DEFINE_string(
  "part",
  "1/1",
  "K/N, the K-th of N shares of the runs",
  flag_values=DRILL,
)
flags.DEFINE_bool(
  "keep_runs", False, "keep the runs' checkpoints", flag_values=DRILL
)
flags.DEFINE_bool(
  "score_only",
  False,
  "print the table of what is there",
  flag_values=DRILL,
)


def _drill(path: str = "") -> int:
  """Puts faults into small real trainings."""
  from bigscale.spec import require

  require(not path, f"monitor drill takes no path; use --out={path}")
  out = pathlib.Path(require_flag(DRILL, "out", "runs/drills"))
  import jax

  from bigscale.monitor import drill_stages, drills, faults, scoring

  known = faults.FAULTS | faults.CONTROLS
  for name in DRILL.only:
    require(
      name in known, f"--only={name} is no drill; use any of {', '.join(known)}"
    )
  share, parts = part_of(DRILL.part)
  planned = drills.plan((DRILL.group,), DRILL.fault_seeds, DRILL.control_seeds)
  wanted = DRILL.only or known
  chosen = drills.part([d for d in planned if d.what in wanted], share, parts)
  # Several parts, and the next start, find the programs compiled.
  jax.config.update("jax_compilation_cache_dir", str(out / "programs"))
  runner = drills.Drills(out, DRILL.keep_runs)
  if not DRILL.score_only:
    for row in runner.run(chosen):
      print(drills.as_line(row), file=sys.stderr, flush=True)
  rows = [row for row in runner.rows() if row["group"] == DRILL.group]
  require(bool(rows), f"--out={out} has no drills of --group={DRILL.group}")
  scored = scoring.score(rows, drill_stages.WARMUP)
  print(json.dumps(scored, indent=2) if DRILL.json else scoring.as_text(scored))
  return 0


def _replay(path: str = "") -> int:
  """Judges a recorded training."""
  from bigscale.monitor import trace
  from bigscale.spec import require

  require(
    bool(path), "monitor replay of what? Use: bigscale monitor replay TRACE.csv"
  )
  require(
    REPLAY.warmup is None or REPLAY.warmup >= 0,
    f"--warmup={REPLAY.warmup} must not be negative",
  )
  spec = _set(_spec_of(path), REPLAY.set)
  recorded = trace.read_trace(path, REPLAY.attempt)
  found = trace.replay(recorded, spec, _kinks(REPLAY.kinks), REPLAY.warmup)
  print(json.dumps(found, indent=2) if REPLAY.json else _text(found))
  return 0


def _spec_of(path: str) -> "VerdictSpec":
  """What the run was judged by, where `path` is a run that says so."""
  import pathlib

  from bigscale.spec.verdict import VerdictSpec

  try:
    written = json.loads((pathlib.Path(path) / "spec.json").read_bytes())
    settings = written["spec"]["monitor"]["verdict"]
    return VerdictSpec(**settings)
  except (OSError, ValueError, KeyError, TypeError):
    return VerdictSpec()


def _set(spec: "VerdictSpec", settings: list[str]) -> "VerdictSpec":
  from bigscale.spec import SpecError, require

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
  from bigscale.spec import SpecError

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


_REPLAY_HELP = """\
Judge a recorded training as the collapse monitor would have.

  bigscale monitor replay TRACE.csv --json
  bigscale monitor replay RUN_DIR
"""
_DRILL_HELP = """\
Put faults into small real trainings and score the monitor.

  bigscale monitor drill --out=runs/drills --only=lr_both_100,d_spikes --json
"""
SUBCOMMANDS = {
  "replay": Subcommand(REPLAY, _replay, _REPLAY_HELP),
  "drill": Subcommand(DRILL, _drill, _DRILL_HELP),
}
