"""What the players minimize, from logits [B] to one value a sample [B].

All at least float32, whatever the networks computed in, and finite in value
and gradient as long as the logits are (the squares while they fit).
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bigscale.spec import SpecError, require
from bigscale.spec.objective import LOSSES, PAIRED, SMOOTHED, THRESHOLDS
from bigscale.types import Array


class DLoss(NamedTuple):
  """D's loss, one value a sample.

  Attributes:
    total: [B], what D minimizes the mean of.
    real: [B], the reals' share of it; None where the two do not separate.
    fake: [B], that of the fakes; total = real + fake.
  """

  total: Array
  real: Array | None
  fake: Array | None


class Adversarial(NamedTuple):
  """The losses of the two players.

  Attributes:
    d: logits of reals [B] and of fakes [B] to `DLoss`.
    g: the same to what G minimizes [B]; the reals may be None unless `paired`.
    paired: whether the i-th fake is judged against the i-th real.
    threshold: the logit above which D takes an image for real; None where the
      loss leaves the level of the logits free.
  """

  d: Callable[[Array, Array], DLoss]
  g: Callable[[Array | None, Array], Array]
  paired: bool
  threshold: float | None

  def sign(self, real: Array, fake: Array) -> Array:
    """Returns what D takes each real for, [B] of -1, 0 and 1; 1 is real.

    Without a threshold a real is compared with the fake of the same row, as
    Huang et al. (2024) report it for RpGAN.
    """
    real, fake = at_least_float32(real), at_least_float32(fake)
    return jnp.sign(real - (fake if self.threshold is None else self.threshold))


def make(name: str, label_smoothing: float = 0.0) -> Adversarial:
  """The losses of `LossSpec.adversarial`.

  Args:
    name: of the loss.
    label_smoothing: D's target for reals is 1 less this, fakes' stays at 0 and
      G's at 1 (one-sided: Salimans et al. 2016, sec. 3.4).

  Raises:
    SpecError: no such loss, or smoothing for one that has no targets.
  """
  require(
    name in LOSSES,
    f"no loss is called {name!r}; use one of {', '.join(LOSSES)}",
  )
  require(
    not label_smoothing or name in SMOOTHED,
    f"label_smoothing={label_smoothing} has no meaning for {name!r}, which has "
    f"no targets; set it to 0, or use one of {', '.join(SMOOTHED)}",
  )
  if name in PAIRED:
    pair = _RELATIVISTIC[name]
    return Adversarial(
      lambda real, fake: DLoss(pair.d(real, fake), None, None),
      pair.g,
      paired=True,
      threshold=THRESHOLDS[name],
    )
  terms = _SEPARABLE[name]
  of_real = terms.d_real
  if label_smoothing:
    of_real = functools.partial(of_real, smoothing=label_smoothing)

  def d(real: Array, fake: Array) -> DLoss:
    real_b, fake_b = of_real(real), terms.d_fake(fake)
    return DLoss(real_b + fake_b, real_b, fake_b)

  return Adversarial(
    d,
    lambda real, fake: terms.g(fake),
    paired=False,
    threshold=THRESHOLDS[name],
  )


def at_least_float32(x: Array) -> Array:
  """Losses and penalties never run in a half precision."""
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rpgan_d(real: Array, fake: Array) -> Array:
  """softplus(-(D(x) - D(G(z)))), the i-th real beside the i-th fake.

  Source: Huang et al. 2024, eq. 2, f(t) = -log(1 + e^-t).
  """
  return jax.nn.softplus(at_least_float32(fake) - at_least_float32(real))


def rpgan_g(real: Array, fake: Array) -> Array:
  """softplus(-(D(G(z)) - D(x))); the reals are the constant of each pair."""
  return jax.nn.softplus(at_least_float32(real) - at_least_float32(fake))


def hinge_d_real(real: Array) -> Array:
  """max(0, 1 - D(x)) (Lim and Ye 2017)."""
  return jax.nn.relu(1 - at_least_float32(real))


def hinge_d_fake(fake: Array) -> Array:
  """max(0, 1 + D(G(z)))."""
  return jax.nn.relu(1 + at_least_float32(fake))


def hinge_g(fake: Array) -> Array:
  """-D(G(z)); Wasserstein's too."""
  return -at_least_float32(fake)


def logistic_d_real(real: Array, smoothing: float = 0.0) -> Array:
  """-(1 - s) log p - s log(1 - p), p = sigmoid(D(x)) (Goodfellow et al. 2014).

  As softplus(-D) + s D, in which nothing overflows.
  """
  real = at_least_float32(real)
  return jax.nn.softplus(-real) + smoothing * real


def logistic_d_fake(fake: Array) -> Array:
  """-log(1 - sigmoid(D(G(z))))."""
  return jax.nn.softplus(at_least_float32(fake))


def non_saturating_g(fake: Array) -> Array:
  """-log sigmoid(D(G(z))) (Goodfellow et al. 2014, sec. 3)."""
  return jax.nn.softplus(-at_least_float32(fake))


def minimax_g(fake: Array) -> Array:
  """log(1 - sigmoid(D(G(z)))): flat where D is sure of the fake."""
  return -jax.nn.softplus(at_least_float32(fake))


def least_squares_d_real(real: Array, smoothing: float = 0.0) -> Array:
  """(D(x) - (1 - s))^2 / 2, the half being the paper's (Mao et al. 2017)."""
  return jnp.square(at_least_float32(real) - (1 - smoothing)) / 2


def least_squares_d_fake(fake: Array) -> Array:
  """D(G(z))^2 / 2: targets 0 and 1 (eq. 9 of the paper)."""
  return jnp.square(at_least_float32(fake)) / 2


def least_squares_g(fake: Array) -> Array:
  """(D(G(z)) - 1)^2 / 2."""
  return jnp.square(at_least_float32(fake) - 1) / 2


def wasserstein_d_real(real: Array) -> Array:
  """-D(x) (Arjovsky et al. 2017); D must be kept Lipschitz by other means."""
  return -at_least_float32(real)


class _Terms(NamedTuple):
  """A loss in which reals and fakes do not meet."""

  d_real: Callable[..., Array]
  d_fake: Callable[[Array], Array]
  g: Callable[[Array], Array]


class _PairTerms(NamedTuple):
  """A loss of pairs."""

  d: Callable[[Array, Array], Array]
  g: Callable[[Array, Array], Array]


_RELATIVISTIC = {"rpgan": _PairTerms(rpgan_d, rpgan_g)}
_SEPARABLE = {
  "hinge": _Terms(hinge_d_real, hinge_d_fake, hinge_g),
  "non_saturating": _Terms(logistic_d_real, logistic_d_fake, non_saturating_g),
  "minimax": _Terms(logistic_d_real, logistic_d_fake, minimax_g),
  "least_squares": _Terms(
    least_squares_d_real, least_squares_d_fake, least_squares_g
  ),
  "wasserstein": _Terms(wasserstein_d_real, at_least_float32, hinge_g),
}


def check_declared() -> None:
  """Checks that the losses here are those that `bigscale.spec` declares.

  Raises:
    SpecError: names every loss that is declared in one place alone.
  """
  problems = []
  for table, terms, wanted in (
    ("_RELATIVISTIC", _RELATIVISTIC, set(PAIRED)),
    ("_SEPARABLE", _SEPARABLE, set(LOSSES) - set(PAIRED)),
  ):
    problems += [
      f"{name!r} is a choice of LossSpec.adversarial in "
      f"bigscale/spec/objective.py, where PAIRED says whether it is paired, "
      f"but has no terms: add it to {table} of bigscale/losses/adversarial.py"
      for name in sorted(wanted - set(terms))
    ]
    problems += [
      f"{name!r} has terms in {table} of bigscale/losses/adversarial.py: "
      "add it to the choices of LossSpec.adversarial in "
      "bigscale/spec/objective.py, "
      + ("and to PAIRED there" if terms is _RELATIVISTIC else "not to PAIRED")
      for name in sorted(set(terms) - wanted)
    ]
  problems += [
    f"{name!r} is in SMOOTHED of bigscale/spec/objective.py, but its terms in "
    "_SEPARABLE of bigscale/losses/adversarial.py take no smoothing: let "
    "d_real take it"
    for name in SMOOTHED
    if name in _SEPARABLE and not _takes_smoothing(_SEPARABLE[name].d_real)
  ]
  problems += [
    f"{name!r} has no threshold of D's logits: add it to THRESHOLDS of "
    "bigscale/spec/objective.py, the logit halfway between its targets, or None"
    for name in LOSSES
    if name not in THRESHOLDS
  ]
  if problems:
    raise SpecError("losses do not agree: " + "; ".join(problems))


def _takes_smoothing(d_real: Callable[..., Array]) -> bool:
  return "smoothing" in inspect.signature(d_real).parameters


check_declared()
