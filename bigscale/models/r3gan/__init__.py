"""R3GAN (Huang et al. 2024)."""

from bigscale.models.r3gan.spec import PRESETS, R3ganSpec

Family = R3ganSpec

__all__ = ["PRESETS", "Family", "R3ganSpec"]
