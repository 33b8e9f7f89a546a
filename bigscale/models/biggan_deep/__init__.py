"""BigGAN-deep (Brock et al. 2019)."""

from bigscale.models.biggan_deep.spec import (
  D_WIDTHS,
  G_WIDTHS,
  PRESETS,
  BigganDeepSpec,
)

Family = BigganDeepSpec

__all__ = ["D_WIDTHS", "G_WIDTHS", "PRESETS", "BigganDeepSpec", "Family"]
