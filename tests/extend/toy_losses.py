"""Losses and penalties in a module outside the package.

A config selects them by name: `loss.adversarial = "toy_losses:PAIRS"`.
"""

import jax
import jax.numpy as jnp

from bigscale.losses.rows import Paired, Separable
from bigscale.losses.terms import DTerm


def pairs_d(real, fake):
  """Returns (D(x) - D(G(z)) - 1)^2 of each pair."""
  return (real - fake - 1) ** 2


def pairs_g(real, fake):
  """Returns (D(G(z)) - D(x))^2 of each pair."""
  return (fake - real) ** 2


PAIRS = Paired(d=pairs_d, g=pairs_g, threshold=None)


def wide_hinge_d_real(real, smoothing=0.0):
  """Returns max(0, 2 (1 - s) - D(x)): the hinge loss around 0.5."""
  return jax.nn.relu(2 * (1 - smoothing) - real)


WIDE_HINGE = Separable(
  d_real=wide_hinge_d_real,
  d_fake=lambda fake: jax.nn.relu(1 + fake),
  g=lambda fake: -fake,
  threshold=0.5,
)

NO_G = Paired(d=pairs_d, threshold=None)
NO_THRESHOLD = Paired(d=pairs_d, g=pairs_g)
# Refused: a `Separable` calls `g` with the logits of fakes alone.
PAIRED_G = Separable(
  d_real=wide_hinge_d_real, d_fake=wide_hinge_d_real, g=pairs_g, threshold=0.0
)
MEAN = Paired(d=lambda real, fake: jnp.mean(real), g=pairs_g, threshold=None)
FUNCTION = pairs_d


def drift(discriminator, reals, fakes, uniform):
  """Returns D(x)^2; keeps logits near 0 (Karras et al. 2018)."""
  del fakes, uniform
  return discriminator(reals.images, reals.labels) ** 2


def noise(discriminator, reals, fakes, uniform):
  """Returns the squared change of D's logit under random brightening."""
  del fakes
  brighter = reals.images + 0.3 * uniform[:, :, None, None]
  moved = discriminator(brighter, reals.labels)
  return (moved - discriminator(reals.images, reals.labels)) ** 2


DRIFT = DTerm(values=drift, scalar="d/drift_penalty")
NOISE = DTerm(values=noise, scalar="d/noise_penalty", draws=(1,))
SHORT = DTerm(values=pairs_d, scalar="d/short_penalty")
UNNAMED = DTerm(values=drift, scalar="drift")
SUMMED = DTerm(
  values=lambda *of: jnp.sum(drift(*of)), scalar="d/summed_penalty"
)
