"""Run the collapse monitor on recorded runs, or test it with faults.

Example:
  bigscale monitor replay TRACE.csv
  bigscale monitor drill --out=runs/drills
  bigscale monitor interventions --out=runs/drills

See docs/reference/monitor.md.
"""

PARTS = ("replay", "drill", "interventions")
