"""BigGAN (Brock et al. 2019)."""

from bigscale.models.biggan.spec import D_WIDTHS, G_WIDTHS, PRESETS, BigganSpec

Family = BigganSpec

__all__ = ["D_WIDTHS", "G_WIDTHS", "PRESETS", "BigganSpec", "Family"]
