r"""Fit a scaling law to a table of runs.

Example:
  bigscale scaling fit runs.csv --x=params --x2=images --y=fid --group=run \
      --status=status --floor=1.87

The table is a CSV file with a header. A row is a run or a checkpoint of a run.
The law is y = E + A x^-alpha, or y = E + A x^-alpha + B x2^-beta with --x2.

Prints the parameters with standard errors and 95% intervals, the
compute-optimal split, how well each form of the law predicts large runs from
small ones, and each row that was excluded or used as a bound. See
docs/reference/laws.md.

More examples:
  bigscale scaling fit runs.csv --x=flops --y=fid --group=run --json
  bigscale scaling fit chinchilla.csv --x='Model Size' --x2=flops/6x \
      --flops='Training FLOP' --y=loss --drop_worst=5
"""

import json

from bigscale.cli.flags import Flags
from bigscale.cli.scaling import law

FLAGS = Flags()
law.define_flags(FLAGS)
FLAGS.heading("Output")
FLAGS.bool("json", False, "Print JSON.")
FLAGS.address("out", None, "File or address to also write the JSON to.")


def run(path: str = "") -> int:
  """Fits a law and prints it."""
  from bigscale.scaling import analysis, text

  found = {"table": path, **analysis.record(law.study(FLAGS, path, "fit"))}
  if FLAGS.out:
    _write(FLAGS.out, found)
  print(json.dumps(found, indent=2) if FLAGS.json else text.as_text(found))
  return 0


def _write(out: str, found: dict) -> None:
  from bigscale.spec import SpecError
  from bigscale.train.folder import write_whole

  try:
    write_whole(out, json.dumps(found, indent=2) + "\n")
  except OSError as error:
    raise SpecError(
      f"--out={out} cannot be written ({error.strerror}); name a file"
    ) from None
