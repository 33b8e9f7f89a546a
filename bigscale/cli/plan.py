r"""What a run would cost on a TPU slice, found out without a TPU.

  bigscale plan --config=biggan:128 --topology=v5e:16x16
  bigscale plan --config=biggan:128 --topology=v5e:16x16 \
      --mode=zero:16 --effort=O1 --json > plan.json
  bigscale plan --config=biggan:128 --topology=v5e:16x16 \
      --mode=zero:16 --effort=O1 --baseline=plan.json
  bigscale plan --config=biggan:128 --sweep --effort=O1 \
      --topology=v3:16x16,v5e:16x16,2xv5e:16x16 --mode=replicated,zero:16

Compiles the run's own step with the TPU compiler, which runs on CPUs (pip
install 'bigscale[tpu-plan]'), and reports memory, FLOPs, communication and an
estimate of time per device. A full BigGAN takes minutes; plans are kept in
~/.cache/bigscale/plans. Exit code 0 also where the run does not fit, unless
--require-fit is given. The estimate adds the compiler's cycles and a model of
the collectives; nothing was run, so compare plans with plans.
"""

import json

from bigscale.cli.config_flags import ConfigFlags, spec_of

FLAGS = ConfigFlags()
FLAGS.define_config("the run's config file")
FLAGS.list(
  "topology",
  [],
  "slice in chips, like v3:16x16, v4:4x4x4, v5e:16x16, v5p:8x8x8, v6e:16x16, "
  "or 2xv5e:16x16 for two; several for --sweep",
)
FLAGS.list(
  "mode",
  [],
  "in place of the config's mesh: replicated, or zero:N or fsdp:N, which split "
  "the state over N devices; several for --sweep",
)
FLAGS.enum(
  "effort",
  "default",
  ["default", "O1"],
  "of the compiler; O1 is four times faster, right for memory and "
  "communication, and its cycles are too many: compare like with like",
)
FLAGS.bool("json", False, "print JSON")
FLAGS.bool("sweep", False, "compare all of --topology and --mode in a table")
FLAGS.local_path(
  "baseline", None, "an earlier plan's JSON, to show what changed since"
)
FLAGS.bool("require_fit", False, "exit with 2 if it does not fit")
FLAGS.alias("require-fit", "require_fit")
FLAGS.bool("no_cache", False, "plan again what was planned before")


def run() -> int:
  """Plans a run, or several."""
  from bigscale.plan import topology
  from bigscale.plan.sweep import sweep, with_mode
  from bigscale.spec import require

  topology.prepare()
  names = FLAGS.require("topology", "v5e:16x16") or []
  spec = spec_of(FLAGS)
  specs = [with_mode(spec, mode) for mode in FLAGS.mode] or [spec]
  require(bool(names), "--topology is missing; give --topology=v5e:16x16")
  topologies = [topology.parse(name) for name in names]
  topology.require_compiler()
  if FLAGS.sweep:
    require(
      FLAGS.baseline is None,
      "--baseline compares one plan with one; leave --sweep out",
    )
    found = sweep(specs, names, FLAGS.effort, use_cache=not FLAGS.no_cache)
    return _show_many(list(found))
  require(
    len(specs) == len(topologies) == 1,
    f"{len(topologies)} topologies and {len(specs)} modes are more than one "
    "plan; add --sweep",
  )
  return _show_one(specs[0], topologies[0])


def _show_one(spec: object, topology: object) -> int:
  from bigscale.plan import report
  from bigscale.plan.make import make

  # Before the minutes of compiling.
  baseline = report.load(FLAGS.baseline) if FLAGS.baseline else None
  plan = make(spec, topology, FLAGS.effort, use_cache=not FLAGS.no_cache)
  changes = report.compare(plan, baseline) if baseline else None
  if FLAGS.json:
    print(
      json.dumps(plan | ({"changes": changes} if changes else {}), indent=2)
    )
  else:
    print(report.text(plan))
    if changes:
      print("\n" + report.comparison_text(changes))
  return 2 if FLAGS.require_fit and not plan["fits"] else 0


def _show_many(plans: list[dict]) -> int:
  from bigscale.plan import report

  print(json.dumps(plans, indent=2) if FLAGS.json else report.table(plans))
  fit = all(plan.get("fits") for plan in plans)
  return 2 if FLAGS.require_fit and not fit else 0
