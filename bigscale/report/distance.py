"""The distance that a report leads with, and what it is compared with."""

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
# What follows the score's name in the reference.
_LABELS = {
  FLOOR: "held-out reals (floor)",
  "floor_halves": "two halves of the reals",
  "class_means_noise": "baseline: class means + noise",
  "blurred_reals": "baseline: blurred reals",
}


class Distance(NamedTuple):
  """A Fréchet distance of a run.

  Attributes:
    scalar: its name in the rows.
    title: for people.
    levels: what it is compared with, by label, the known ones first.
    floor: that of held-out reals; None where it is not known.
  """

  scalar: str
  title: str
  levels: dict[str, float]
  floor: float | None


def distance_of(run: Run) -> Distance:
  """The first Fréchet distance that the run has logged, or would log."""
  logged = [m[1] for m in map(_FRECHET.fullmatch, run.names()) if m]
  known = [name for name in _TITLES if name in logged]
  name = (*known, *logged, "fd_classifier")[0]
  others = {f"{other}_" for other in (*_TITLES, *logged)} - {f"{name}_"}
  # Of another score whose name begins with this one's.
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
