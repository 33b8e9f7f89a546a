"""Say what a set, or an input of `data build`, holds and leaves out.

  bigscale data inspect SET --sheet=sheet.png

Takes what `data build` takes as input.
"""

import json

from bigscale.cli.flags import Flags

FLAGS = Flags()
FLAGS.string("sheet", None, "PNG to write images to")
FLAGS.integer("num", 64, "images of the sheet, about")
FLAGS.enum(
  "split", "train", ["train", "heldout"], "to take the sheet's images from"
)
FLAGS.bool("json", False, "print JSON")


def run(path: str = "") -> int:
  """Says what a set or an input of `build` holds."""
  from bigscale.data import inspect
  from bigscale.data.inputs import open_inputs
  from bigscale.spec import require

  require(bool(path), "data inspect of what? Use: bigscale data inspect PATH")
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
