"""Spec of how latents are drawn where they are truncated."""

import dataclasses
from typing import Literal

# Two meanings of the number; `bigscale.sampling.latents` has both.
TruncationRule = Literal["resample", "scale"]
TRUNCATION_RULES: tuple[TruncationRule, ...] = ("resample", "scale")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSpec:
  """What commands that sample do unless their flags say otherwise.

  Attributes:
    truncation_rule: what `--truncation=T` means. `resample` draws entries of
      N(0, 1) again until they lie in [-T, T] (Brock et al. 2019, sec. 3.1).
      `scale` multiplies a normal truncated to [-2, 2] by T (the official
      TF-Hub modules and their ports). None takes the rule of the weights'
      authors where weights were imported, else `resample`.
  """

  truncation_rule: TruncationRule | None = None
