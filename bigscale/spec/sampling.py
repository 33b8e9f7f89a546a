"""Spec of truncated sampling."""

import dataclasses
from typing import Literal

# Both rules are implemented in `bigscale.sampling.latents`.
TruncationRule = Literal["resample", "scale"]
TRUNCATION_RULES: tuple[TruncationRule, ...] = ("resample", "scale")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSpec:
  """Defaults of the commands that sample.

  Attributes:
    truncation_rule: meaning of `--truncation=T`. `resample` samples entries of
      N(0, 1) again until they lie in [-T, T] (Brock et al. 2019, sec. 3.1).
      `scale` multiplies a normal distribution truncated to [-2, 2] by T (the
      official TF-Hub modules and their ports). None uses the rule of the
      original authors for imported weights, otherwise `resample`.
  """

  truncation_rule: TruncationRule | None = None
