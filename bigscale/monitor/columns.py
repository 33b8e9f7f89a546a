"""How the monitor reads a column of a trace, by its name.

The name decides the group that the column gives evidence for, the direction
that is bad, and whether its logarithm is compared. Columns of BigGAN-PyTorch,
StyleGAN, StudioGAN and Weights & Biases are recognized by the words in their
names. All other columns belong to the group `other`.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

# Groups of weights. Weights integrate their updates, so they do not jump and
# come back.
WEIGHTS = frozenset({"g_weights", "g_tail", "d_weights", "average"})
# Group of differences from the anchor that are too small to matter.
SLIGHT = "slight"
# Groups whose evidence suffices for a rollback only together with another
# group's. In healthy runs, losses shift permanently, D's spectra move with each
# spike of its loss, and the smaller singular values of a layer lag behind and
# double.
WEAK = frozenset({"game", "d_weights", "g_tail", "heldout", "other", SLIGHT})
# Side of each group. Groups of the same side move together in a healthy run.
# The evidence of different sides is nearly independent and is added. A column
# with an unknown name has no side.
SIDES = {
  "game": "d",
  "d_weights": "d",
  "heldout": "d",
  "g_weights": "g",
  "g_tail": "g",
  "average": "g",
  "samples": "samples",
  "scores": "samples",
}


class Kind(NamedTuple):
  """How the values of a column are compared.

  Attributes:
    group: name of the group that the column gives evidence for.
    direction: direction that is bad: 1 for a rise, -1 for a fall, 0 for both.
    log: whether logarithms are compared. If so, values of 0 and below are
      skipped.
    vital: whether a value that is not finite means that the run is lost.
    known: whether the value itself is evidence in nats, by a comparison with
      the anchor. Such a column needs no past.
    quality: whether the column measures the quality of samples at every probe,
      so that it is also compared with its best value so far.
  """

  group: str
  direction: int = 0
  log: bool = False
  vital: bool = False
  known: bool = False
  quality: bool = False


_LOSS = Kind("game", vital=True)
_GRADIENT = Kind("game", 1, log=True, vital=True)
_SCORE = Kind("scores", 1, log=True)
_OTHER = Kind("other")

# Names of D's columns: d/..., D_blocks_4_0_conv2_sv0, Dis_..., critic.
_OF_D = r"(^|[/_. ])(d|dis\w*|critic)\d*[/_. ]"
# The largest singular value of a layer. StudioGAN names it after the weight.
_SIGMA = r"sigma|spectral|singular|(^|[._/])sv\d*([._/]|$)|weight_orig$"

# The first pattern found in the lower-case name decides. Columns of kind None
# are not judged.
_KINDS: tuple[tuple[str, Kind | None], ...] = (
  (r"^anchor/size/", None),
  (r"^anchor/data/", Kind("data", 1, known=True)),
  (r"^anchor/tensors/", Kind("tensors", 1, known=True)),
  (r"^anchor/slight/", Kind(SLIGHT, 1, known=True)),
  (r"^anchor/fakes/(accuracy|by_)", Kind("samples", -1, log=True)),
  (r"^anchor/fakes/average", Kind("average", 1, log=True)),
  (r"^anchor/fakes/distance$", Kind("samples", 1, log=True, quality=True)),
  (r"^anchor/fakes/", Kind("samples", 1, log=True)),
  (
    r"^(perf|optim|aug|time|timing|progress|resources|monitor|system)\b"
    r"|^(kimg|seconds|attempt|epoch|tick)\b",
    None,
  ),
  # Clocks, rates and counters.
  (
    r"(^|[/_. ])(lr|learning_rate|steps?|iter\w*|itr|global_step|epochs?"
    r"|time\w*|timestamp|runtime|seconds?|secs?|eta|fps|mfu|memory\w*|wd)$",
    None,
  ),
  (r"(step|iter|batch|data)_?(time|sec)|sec_per|per_sec", None),
  (r"standard_error|(^|[/_. ])std$|__(min|max)$", None),
  # A relativistic loss determines only the gap between these levels, so only
  # the gap is judged.
  (
    r"logit_(real|fake|heldout)$|scores/(real|fake)$|(^|[/_])signs?([/_]|$)",
    None,
  ),
  (r"^ema/decay$|nonfinite$", None),
  (r"^ema/", Kind("average", 1, log=True)),
  (r"heldout|overfit", Kind("heldout", 1)),
  (r"diversity|lpips|rank$", Kind("samples", -1, log=True)),
  (r"distance$", Kind("samples", 1, log=True)),
  (r"(^|[/_. ])(fid|fd|kid|swd|sfid|ppl)(\d|[/_. ]|$)", _SCORE),
  (
    r"(^|[/_. ])(is|inception)(\d|[/_. ]|$)|precision|recall|density|coverage"
    r"|(^|[/_])(prc|dc)(_|$)",
    _SCORE._replace(direction=-1),
  ),
  (r"^eval/", None),
  # Adam turns gradients into updates of almost constant size.
  (r"update_norm", Kind("heldout", 1, log=True, vital=True)),
  (r"(^|[/_])(r1|r2|gp|pl)\b|penalty|grad", _GRADIENT),
  (r"loss|adversarial|(^|/)[gd]\w*/(main|total)", _LOSS),
  (r"^(g|d|gen|disc?|generator|discriminator|critic)$", _LOSS),
  (r"logit", Kind("game")),
  (
    rf"{_OF_D}.*(({_SIGMA})|norm)",
    Kind("d_weights", 1, log=True),
  ),
  (r"sigma[1-9]|(^|[._/])sv[1-9]([._/]|$)", Kind("g_tail", 1, log=True)),
  (rf"{_SIGMA}|norm|ortho", Kind("g_weights", 1, log=True)),
)
_NORM = re.compile(r"(weight|param)\w*_norm")


@functools.cache
def kind_of(name: str) -> Kind | None:
  """Returns how a column is judged; None if it is not."""
  low = name.lower()
  for pattern, kind in _KINDS:
    if re.search(pattern, low):
      # A run is lost if the norm of all weights is not finite. A singular value
      # of one layer does not show that.
      vital = kind is not None and bool(_NORM.search(low))
      return kind._replace(vital=True) if vital else kind
  return _OTHER


def is_norm_of_weights(name: str) -> bool:
  """Returns whether a column is the norm of a player's weights."""
  return bool(_NORM.search(name.lower()))


def size_of(name: str) -> str:
  """Returns the column with the size of the change that a column shows."""
  return "anchor/size/" + name.rpartition("/")[2]


def with_logit_gap(row: Mapping[str, Any]) -> Mapping[str, Any]:
  """Adds `d/logit_gap`, the gap between D's logits of reals and of fakes."""
  real, fake = row.get("d/logit_real"), row.get("d/logit_fake")
  try:
    gap = float(real - fake)
  except (TypeError, ValueError):
    return row
  return {**row, "d/logit_gap": gap} if math.isfinite(gap) else row
