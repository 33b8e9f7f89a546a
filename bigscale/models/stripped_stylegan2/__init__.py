"""Stripped StyleGAN2 (Huang et al. 2024)."""

from bigscale.models.stripped_stylegan2.spec import PRESETS, StrippedSpec

Family = StrippedSpec

__all__ = ["PRESETS", "Family", "StrippedSpec"]
