"""Adversarial losses and their declarations.

A declaration contains functions from logits [B] to one value per sample, [B].
Their inputs are at least float32, whatever dtype the networks compute in. The
values and gradients of the built-in losses are finite as long as the logits are
finite (for squares, as long as these do not overflow).

`OURS` contains the built-in losses. A user's own loss is a declaration that
`loss.adversarial` names as `package.module:Name`.

A spec reads these declarations before JAX may be initialized, so JAX is
imported inside the functions that compute a loss.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from bigscale.losses import rows
from bigscale.losses.rows import Paired, Separable
from bigscale.spec import named
from bigscale.spec.base import SpecError, require

if TYPE_CHECKING:
  from bigscale.types import Array


class DLoss(NamedTuple):
  """D's loss per sample.

  Attributes:
    total: [B], the loss whose mean D minimizes.
    real: [B], the term of the reals; None if the loss is not separable.
    fake: [B], the term of the fakes; total = real + fake.
  """

  total: "Array"
  real: "Array | None"
  fake: "Array | None"


class Adversarial(NamedTuple):
  """The losses of both players of a run.

  Attributes:
    d: function from logits of reals [B] and of fakes [B] to a `DLoss`.
    g: function from the same logits to G's loss per sample [B]. The reals may
      be None unless the loss is paired.
    row: the declaration of the loss.
  """

  d: "Callable[[Array, Array], DLoss]"
  g: "Callable[[Array | None, Array], Array]"
  row: Separable | Paired

  def sign(self, real: "Array", fake: "Array") -> "Array":
    """Returns D's prediction for each real, [B] of -1, 0 and 1; 1 is real.

    Without a threshold, a real is compared with the fake at the same index, as
    Huang et al. (2024) report it for RpGAN.
    """
    import jax.numpy as jnp

    threshold = self.row.threshold
    real, fake = at_least_float32(real), at_least_float32(fake)
    return jnp.sign(real - (fake if threshold is None else threshold))


def find(name: str) -> Separable | Paired:
  """Returns the declaration of a built-in loss or of `package.module:Name`.

  Args:
    name: name as in `LossSpec.adversarial`.

  Raises:
    SpecError: there is no such loss, or its declaration is incomplete.
  """
  known = (
    f"{', '.join(map(repr, OURS))}, or package.module:Name of your own loss"
  )
  if named.is_path(name):
    row = named.load(name, "a loss")
  else:
    require(
      name in OURS,
      f"loss.adversarial={name!r} is not a loss; use one of {known}",
    )
    row = OURS[name]
  rows.check(name, row)
  return row


def smoothed() -> tuple[str, ...]:
  """Returns the names of the built-in losses that support label smoothing."""
  return tuple(name for name, row in OURS.items() if row.smoothing)


def check_smoothing(name: str, label_smoothing: float) -> None:
  """Raises `SpecError` if a loss without targets has label smoothing."""
  require(
    not label_smoothing or find(name).smoothing,
    f"loss.label_smoothing={label_smoothing} does not apply to {name!r}, "
    "which has no targets; set it to 0, or use one of "
    f"{', '.join(smoothed())}",
  )


def make(name: str, label_smoothing: float = 0.0) -> Adversarial:
  """Returns the losses that `LossSpec.adversarial` names.

  Args:
    name: name of the loss.
    label_smoothing: amount subtracted from D's target for reals. D's target for
      fakes stays 0 and G's target stays 1 (one-sided smoothing: Salimans et al.
      2016, sec. 3.4).

  Raises:
    SpecError: there is no such loss, it has no targets to smooth, or one of its
      functions does not return one value per sample.
  """
  row = find(name)
  check_smoothing(name, label_smoothing)
  options = {"smoothing": label_smoothing} if label_smoothing else {}
  functions = {
    part: functools.partial(_per_sample, getattr(row, part), f"{name}: {part}")
    for part in row.functions
  }

  def paired_d(real: "Array", fake: "Array") -> DLoss:
    return DLoss(functions["d"](real, fake, **options), None, None)

  def separable_d(real: "Array", fake: "Array") -> DLoss:
    real_b, fake_b = (
      functions["d_real"](real, **options),
      functions["d_fake"](fake),
    )
    return DLoss(real_b + fake_b, real_b, fake_b)

  if row.paired:
    return Adversarial(paired_d, functions["g"], row)
  return Adversarial(separable_d, lambda real, fake: functions["g"](fake), row)


def _per_sample(
  function: "Callable[..., Array]",
  what: str,
  *logits: "Array",
  **options: float,
) -> "Array":
  """Calls a function of the loss on logits [B] of at least float32."""
  logits = tuple(map(at_least_float32, logits))
  try:
    found = function(*logits, **options)
  except Exception as error:
    raise SpecError(
      f"the loss {what} fails with {type(error).__name__}: {error}; fix it"
    ) from error
  shape = getattr(found, "shape", None)
  if shape != logits[0].shape:
    raise SpecError(
      f"the loss {what} returns shape {shape} for logits of shape "
      f"{logits[0].shape}; it must return one value per sample, not a mean"
    )
  return found


def at_least_float32(x: "Array") -> "Array":
  """Casts an array of lower precision to float32, for losses and penalties."""
  import jax.numpy as jnp

  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rpgan_d(real: "Array", fake: "Array") -> "Array":
  """softplus(-(D(x) - D(G(z)))) for pairs of the i-th real and the i-th fake.

  Source: Huang et al. 2024, eq. 2, f(t) = -log(1 + e^-t).
  """
  return _softplus(fake - real)


def rpgan_g(real: "Array", fake: "Array") -> "Array":
  """softplus(-(D(G(z)) - D(x))), with reals as the constant of each pair."""
  return _softplus(real - fake)


def hinge_d_real(real: "Array") -> "Array":
  """max(0, 1 - D(x)) (Lim and Ye 2017)."""
  return _relu(1 - real)


def hinge_d_fake(fake: "Array") -> "Array":
  """max(0, 1 + D(G(z)))."""
  return _relu(1 + fake)


def hinge_g(fake: "Array") -> "Array":
  """-D(G(z)); also the Wasserstein loss of G."""
  return -fake


def logistic_d_real(real: "Array", smoothing: float = 0.0) -> "Array":
  """-(1 - s) log p - s log(1 - p), p = sigmoid(D(x)) (Goodfellow et al. 2014).

  Computed as softplus(-D) + s D, which cannot overflow.
  """
  return _softplus(-real) + smoothing * real


def logistic_d_fake(fake: "Array") -> "Array":
  """-log(1 - sigmoid(D(G(z))))."""
  return _softplus(fake)


def non_saturating_g(fake: "Array") -> "Array":
  """-log sigmoid(D(G(z))) (Goodfellow et al. 2014, sec. 3)."""
  return _softplus(-fake)


def minimax_g(fake: "Array") -> "Array":
  """log(1 - sigmoid(D(G(z)))): its gradient vanishes if D rejects the fake."""
  return -_softplus(fake)


def least_squares_d_real(real: "Array", smoothing: float = 0.0) -> "Array":
  """(D(x) - (1 - s))^2 / 2, with the factor 1/2 of Mao et al. 2017."""
  return _square(real - (1 - smoothing)) / 2


def least_squares_d_fake(fake: "Array") -> "Array":
  """D(G(z))^2 / 2: the targets are 0 and 1 (Mao et al. 2017, eq. 9)."""
  return _square(fake) / 2


def least_squares_g(fake: "Array") -> "Array":
  """(D(G(z)) - 1)^2 / 2."""
  return _square(fake - 1) / 2


def wasserstein_d_real(real: "Array") -> "Array":
  """-D(x) (Arjovsky et al. 2017); another term must keep D Lipschitz."""
  return -real


def wasserstein_d_fake(fake: "Array") -> "Array":
  """D(G(z))."""
  return fake


def _softplus(x: "Array") -> "Array":
  import jax

  return jax.nn.softplus(x)


def _relu(x: "Array") -> "Array":
  import jax

  return jax.nn.relu(x)


def _square(x: "Array") -> "Array":
  import jax.numpy as jnp

  return jnp.square(x)


OURS: dict[str, Separable | Paired] = {
  "rpgan": Paired(d=rpgan_d, g=rpgan_g, threshold=None),
  "hinge": Separable(
    d_real=hinge_d_real, d_fake=hinge_d_fake, g=hinge_g, threshold=0.0
  ),
  "non_saturating": Separable(
    d_real=logistic_d_real,
    d_fake=logistic_d_fake,
    g=non_saturating_g,
    threshold=0.0,
  ),
  # D as in `non_saturating`; G minimizes log(1 - D).
  "minimax": Separable(
    d_real=logistic_d_real,
    d_fake=logistic_d_fake,
    g=minimax_g,
    threshold=0.0,
  ),
  "least_squares": Separable(
    d_real=least_squares_d_real,
    d_fake=least_squares_d_fake,
    g=least_squares_g,
    threshold=0.5,
  ),
  "wasserstein": Separable(
    d_real=wasserstein_d_real,
    d_fake=wasserstein_d_fake,
    g=hinge_g,
    threshold=None,
  ),
}
