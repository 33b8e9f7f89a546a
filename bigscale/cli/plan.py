r"""Predict memory and time of a run on a TPU slice, without a TPU.

Example:
  bigscale plan --config=biggan:128 --topology=v5e:16x16

Compiles the training step with the TPU compiler, which runs on CPUs (pip
install 'bigscale[tpu-plan]'). Reports memory, FLOPs, communication and
estimated time, per device. Compiling a full BigGAN takes minutes. Plans are
cached in ~/.cache/bigscale/plans.

The estimated time is the sum of the compiler's cycle count and a model of the
collectives. Nothing is executed, so compare plans only with plans. The exit
code is 0 even if the run does not fit, unless --require-fit is given.

More examples:

Save a plan, then show what a change of the code changes in it:
  bigscale plan --config=biggan:128 --topology=v5e:16x16 \
      --mode=zero:16 --effort=O1 --json > plan.json
  bigscale plan --config=biggan:128 --topology=v5e:16x16 \
      --mode=zero:16 --effort=O1 --baseline=plan.json

Compare slices and modes:
  bigscale plan --config=biggan:128 --sweep --effort=O1 \
      --topology=v3:16x16,v5e:16x16,2xv5e:16x16 --mode=replicated,zero:16

Forecast the share of the time that is training, at this size and larger ones:
  bigscale plan --config=biggan:128 --topology=v5p:8x8x4 --goodput \
      --assume=mtbf_chip_hours=30000,host_replace_seconds=600
"""

import json

from bigscale.cli.config_flags import ConfigFlags, spec_of

FLAGS = ConfigFlags()
FLAGS.heading("What to plan")
FLAGS.define_config("Config of the run.")
FLAGS.list(
  "topology",
  [],
  "TPU slice, with its shape in chips: v3:16x16, v4:4x4x4, v5e:16x16, "
  "v5p:8x8x8, v6e:16x16, or 2xv5e:16x16 for two slices. --sweep accepts "
  "several.",
)
FLAGS.list(
  "mode",
  [],
  "Mesh to use instead of the config's: replicated, or zero:N or fsdp:N, which "
  "shard the state over N devices. --sweep accepts several.",
)
FLAGS.enum(
  "effort",
  "default",
  ["default", "O1"],
  "Effort of the compiler. O1 compiles four times faster. Its memory and "
  "communication are right but its cycle counts are too high, so compare only "
  "plans of the same effort.",
)
FLAGS.bool("no_cache", False, "Ignore cached plans.")
FLAGS.heading("What to print")
FLAGS.bool("json", False, "Print JSON.")
FLAGS.bool(
  "sweep", False, "Print a table of every --topology with every --mode."
)
FLAGS.local_path(
  "baseline", None, "JSON of an earlier plan. Also prints the differences."
)
FLAGS.bool(
  "goodput",
  False,
  "Also simulate faults, saves and restarts, and print the share of the time "
  "that is training, by the interval of the checkpoints.",
)
FLAGS.list(
  "assume",
  [],
  "Constants of --goodput to change, as NAME=NUMBER. "
  "docs/reference/goodput.md lists them with their defaults and sources.",
)
FLAGS.bool("require_fit", False, "Exit with code 2 if the run does not fit.")
FLAGS.alias("require-fit", "require_fit")


def run() -> int:
  """Prints one plan, or a table of plans."""
  from bigscale.plan import topology
  from bigscale.plan.sweep import sweep, with_mode
  from bigscale.spec import require

  topology.prepare()
  given = _assumed()
  names = FLAGS.require("topology", "v5e:16x16") or []
  spec = spec_of(FLAGS)
  specs = [with_mode(spec, mode) for mode in FLAGS.mode] or [spec]
  require(bool(names), "--topology is missing; give --topology=v5e:16x16")
  topologies = [topology.parse(name) for name in names]
  topology.require_compiler()
  if FLAGS.sweep:
    require(
      FLAGS.baseline is None and not FLAGS.goodput,
      "--baseline and --goodput take one plan; omit --sweep",
    )
    found = sweep(specs, names, FLAGS.effort, use_cache=not FLAGS.no_cache)
    return _show_many(list(found))
  require(
    len(specs) == len(topologies) == 1,
    f"{len(topologies)} topologies and {len(specs)} modes are more than one "
    "plan; add --sweep",
  )
  return _show_one(specs[0], topologies[0], given)


def _assumed() -> dict[str, float]:
  """Returns the constants that --assume gives."""
  from bigscale.plan.goodput.costs import assumed
  from bigscale.spec import require

  require(
    FLAGS.goodput or not FLAGS.assume,
    "--assume changes constants of --goodput; add --goodput",
  )
  return assumed(FLAGS.assume)


def _show_one(spec: object, topology: object, given: dict[str, float]) -> int:
  from bigscale.plan import report
  from bigscale.plan.goodput import forecast
  from bigscale.plan.make import make

  # Check the file before compiling, which takes minutes.
  baseline = report.load(FLAGS.baseline) if FLAGS.baseline else None
  plan = make(spec, topology, FLAGS.effort, use_cache=not FLAGS.no_cache)
  changes = report.compare(plan, baseline) if baseline else None
  goodput = forecast.forecast(plan, spec, given) if FLAGS.goodput else None
  if FLAGS.json:
    more = {"changes": changes, "goodput": goodput}
    more = {name: value for name, value in more.items() if value}
    print(json.dumps(plan | more, indent=2))
  else:
    print(report.text(plan))
    if changes:
      print("\n" + report.comparison_text(changes))
    if goodput:
      print("\n" + forecast.text(goodput, spec))
  return 2 if FLAGS.require_fit and not plan["fits"] else 0


def _show_many(plans: list[dict]) -> int:
  from bigscale.plan import report

  print(json.dumps(plans, indent=2) if FLAGS.json else report.table(plans))
  fit = all(plan.get("fits") for plan in plans)
  return 2 if FLAGS.require_fit and not fit else 0
