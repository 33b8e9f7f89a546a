"""Build, inspect and verify sharded data sets.

Example:
  bigscale data build --input=PHOTOS --out=SET --resolution=64
  bigscale data inspect SET --sheet=sheet.png
  bigscale data verify SET

See docs/reference/data.md.
"""

PARTS = ("build", "inspect", "verify")
