"""Describe the contents of a data set or of an input of `data build`.

Example:
  bigscale data inspect SET --sheet=sheet.png

Accepts every input that `data build` accepts.
"""

import json

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.string("sheet", None, "FILE.png to write with a grid of images.")
FLAGS.integer("num", 64, "Approximate number of images in --sheet.")
FLAGS.enum(
  "split", "train", ["train", "heldout"], "Split of the images in --sheet."
)
FLAGS.bool("json", False, "Print JSON.")


def run(path: str = "") -> int:
  """Prints a description of a data set or an input."""
  from bigscale.data import inspect
  from bigscale.data.inputs import open_inputs
  from bigscale.spec import require

  require(bool(path), "data inspect needs a path: bigscale data inspect PATH")
  found = inspect.facts(path)
  if FLAGS.sheet:
    splits = open_inputs(path)
    require(
      FLAGS.split in splits,
      f"{path} has no {FLAGS.split} split; give --split=train",
    )
    inspect.contact_sheet(splits[FLAGS.split], FLAGS.sheet, FLAGS.num)
  print(json.dumps(found, indent=2) if FLAGS.json else inspect.text(found))
  return 0
