"""Chooses the Fréchet distance that a report shows first."""

import re
from typing import NamedTuple

from bigscale.report.read import Run

_TITLES = {
  "fd_classifier": "Fréchet classifier distance",
  "fid_inception": "FID",
  "fid_inception_clean": "FID, clean resizing",
  "fd_efflite0": "Fréchet distance, EfficientNet-Lite0",
  "fd_infinity_classifier": "Fréchet classifier distance, extrapolated",
  "fd_infinity_inception": "FID-infinity",
  "fd_infinity_inception_clean": "FID-infinity, clean resizing",
  "fd_infinity_efflite0": "Fréchet distance, EfficientNet-Lite0, extrapolated",
}
_FRECHET = re.compile(r"eval/(fi?d_(?!infinity_standard_error).+)")
FLOOR = "floor"
# Labels of the reference values. A key is the name of a value without the name
# of its score.
_LABELS = {
  FLOOR: "held-out real images (floor)",
  "floor_halves": "two halves of the real images",
  "class_means_noise": "baseline: class means + noise",
  "blurred_reals": "baseline: blurred real images",
}


class Distance(NamedTuple):
  """A Fréchet distance of a run.

  Attributes:
    scalar: name of the scalar in metrics.jsonl.
    title: title for display.
    levels: reference values by label, those with a known label first.
    floor: distance of held-out real images, or None if unknown.
  """

  scalar: str
  title: str
  levels: dict[str, float]
  floor: float | None


def distance_of(run: Run) -> Distance:
  """Returns the run's main Fréchet distance.

  This is the first logged one in the order of `_TITLES`, or `fd_classifier` if
  none is logged yet.
  """
  logged = [m[1] for m in map(_FRECHET.fullmatch, run.names()) if m]
  known = [name for name in _TITLES if name in logged]
  name = (*known, *logged, "fd_classifier")[0]
  others = {f"{other}_" for other in (*_TITLES, *logged)} - {f"{name}_"}
  # Prefixes of other scores whose names start with this score's name.
  longer = tuple(other for other in others if other.startswith(f"{name}_"))
  mine = {
    key.removeprefix(f"{name}_"): value
    for key, value in run.reference.items()
    if key.startswith(f"{name}_") and not key.startswith(longer)
  }
  ordered = [key for key in _LABELS if key in mine]
  ordered += [key for key in mine if key not in _LABELS]
  return Distance(
    f"eval/{name}",
    _TITLES.get(name, name),
    {_LABELS.get(key, key): mine[key] for key in ordered},
    mine.get(FLOOR),
  )
