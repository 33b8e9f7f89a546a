r"""Run sweeps, fit laws, forecast, analyze collapses, measure gradient noise.

Example:
  bigscale scaling sweep --config=sweeps/stacked_mnist --out=DIR
  bigscale scaling fit DIR/curves.csv --x=parameters --x2=images \
      --y=fd_classifier --group=run --status=status
  bigscale scaling predict DIR/curves.csv --x=parameters --x2=images \
      --y=fd_classifier --group=run --status=status \
      --at=parameters=1e8,images=1e8
  bigscale scaling report DIR/curves.csv --x=parameters --x2=images \
      --y=fd_classifier --group=run --status=status --out=law.png
  bigscale scaling survival DIR/runs.csv --x=dataset_images
  bigscale scaling noise runs/first --windows=4

See docs/reference/laws.md.
"""

PARTS = ("sweep", "fit", "predict", "report", "survival", "noise")
