"""Judge a recorded training as the collapse monitor would, or drill it.

  bigscale monitor replay TRACE.csv
  bigscale monitor drill --out=runs/drills

See docs/reference/monitor.md.
"""

PARTS = ("replay", "drill")
