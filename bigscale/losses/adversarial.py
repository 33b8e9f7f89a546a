"""What the players minimize: one row a loss, all that is known of it in one.

A row holds functions from logits [B] to one value a sample [B]. They are given
at least float32, whatever the networks computed in, and ours are finite in
value and gradient as long as the logits are (the squares while they fit).

Rows of ours are in `OURS`. A loss from elsewhere is a row that
`loss.adversarial` names as `package.module:Name`.

A spec reads rows before JAX may start, so that JAX is imported where a loss is
computed.
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
  """D's loss, one value a sample.

  Attributes:
    total: [B], what D minimizes the mean of.
    real: [B], the reals' share of it; None where the two do not separate.
    fake: [B], that of the fakes; total = real + fake.
  """

  total: "Array"
  real: "Array | None"
  fake: "Array | None"


class Adversarial(NamedTuple):
  """The losses of the two players of one run.

  Attributes:
    d: logits of reals [B] and of fakes [B] to `DLoss`.
    g: the same to what G minimizes [B]; the reals may be None unless paired.
    row: of the loss.
  """

  d: "Callable[[Array, Array], DLoss]"
  g: "Callable[[Array | None, Array], Array]"
  row: Separable | Paired

  def sign(self, real: "Array", fake: "Array") -> "Array":
    """Returns what D takes each real for, [B] of -1, 0 and 1; 1 is real.

    Without a threshold a real is compared with the fake of the same row, as
    Huang et al. (2024) report it for RpGAN.
    """
    import jax.numpy as jnp

    threshold = self.row.threshold
    real, fake = at_least_float32(real), at_least_float32(fake)
    return jnp.sign(real - (fake if threshold is None else threshold))


def find(name: str) -> Separable | Paired:
  """The row of a loss: one of ours, or that of `package.module:Name`.

  Args:
    name: as in `LossSpec.adversarial`.

  Raises:
    SpecError: there is no such loss, or it lacks a part.
  """
  known = f"{', '.join(map(repr, OURS))}, or package.module:Name of your own"
  if named.is_path(name):
    row = named.load(name, "a loss")
  else:
    require(
      name in OURS, f"loss.adversarial={name!r} is no loss; use one of {known}"
    )
    row = OURS[name]
  rows.check(name, row)
  return row


def smoothed() -> tuple[str, ...]:
  """The losses of ours that take label smoothing."""
  return tuple(name for name, row in OURS.items() if row.smoothing)


def check_smoothing(name: str, label_smoothing: float) -> None:
  """Raises `SpecError` for smoothing of a loss that has no targets."""
  require(
    not label_smoothing or find(name).smoothing,
    f"loss.label_smoothing={label_smoothing} has no meaning for {name!r}, "
    "which has no targets; set it to 0, or use one of "
    f"{', '.join(smoothed())}",
  )


def make(name: str, label_smoothing: float = 0.0) -> Adversarial:
  """The losses of `LossSpec.adversarial`.

  Args:
    name: of the loss.
    label_smoothing: D's target for reals is 1 less this, fakes' stays at 0 and
      G's at 1 (one-sided: Salimans et al. 2016, sec. 3.4).

  Raises:
    SpecError: no such loss, smoothing for one that has no targets, or a
      function of it does not give one value a sample.
  """
  row = find(name)
  check_smoothing(name, label_smoothing)
  told = {"smoothing": label_smoothing} if label_smoothing else {}
  functions = {
    part: functools.partial(
      _one_a_sample, getattr(row, part), f"{name}: {part}"
    )
    for part in row.functions
  }

  def paired_d(real: "Array", fake: "Array") -> DLoss:
    return DLoss(functions["d"](real, fake, **told), None, None)

  def separable_d(real: "Array", fake: "Array") -> DLoss:
    real_b, fake_b = (
      functions["d_real"](real, **told),
      functions["d_fake"](fake),
    )
    return DLoss(real_b + fake_b, real_b, fake_b)

  if row.paired:
    return Adversarial(paired_d, functions["g"], row)
  return Adversarial(separable_d, lambda real, fake: functions["g"](fake), row)


def _one_a_sample(
  function: "Callable[..., Array]", what: str, *logits: "Array", **told: float
) -> "Array":
  """Calls a row's function on logits [B] of at least float32."""
  logits = tuple(map(at_least_float32, logits))
  try:
    found = function(*logits, **told)
  except Exception as error:
    raise SpecError(
      f"the loss {what} fails with {type(error).__name__}: {error}; mend it"
    ) from error
  shape = getattr(found, "shape", None)
  if shape != logits[0].shape:
    raise SpecError(
      f"the loss {what} gives shape {shape} for logits of shape "
      f"{logits[0].shape}; let it give one value a sample, without a mean"
    )
  return found


def at_least_float32(x: "Array") -> "Array":
  """Losses and penalties never run in a half precision."""
  import jax.numpy as jnp

  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rpgan_d(real: "Array", fake: "Array") -> "Array":
  """softplus(-(D(x) - D(G(z)))), the i-th real beside the i-th fake.

  Source: Huang et al. 2024, eq. 2, f(t) = -log(1 + e^-t).
  """
  return _softplus(fake - real)


def rpgan_g(real: "Array", fake: "Array") -> "Array":
  """softplus(-(D(G(z)) - D(x))); the reals are the constant of each pair."""
  return _softplus(real - fake)


def hinge_d_real(real: "Array") -> "Array":
  """max(0, 1 - D(x)) (Lim and Ye 2017)."""
  return _relu(1 - real)


def hinge_d_fake(fake: "Array") -> "Array":
  """max(0, 1 + D(G(z)))."""
  return _relu(1 + fake)


def hinge_g(fake: "Array") -> "Array":
  """-D(G(z)); Wasserstein's too."""
  return -fake


def logistic_d_real(real: "Array", smoothing: float = 0.0) -> "Array":
  """-(1 - s) log p - s log(1 - p), p = sigmoid(D(x)) (Goodfellow et al. 2014).

  As softplus(-D) + s D, in which nothing overflows.
  """
  return _softplus(-real) + smoothing * real


def logistic_d_fake(fake: "Array") -> "Array":
  """-log(1 - sigmoid(D(G(z))))."""
  return _softplus(fake)


def non_saturating_g(fake: "Array") -> "Array":
  """-log sigmoid(D(G(z))) (Goodfellow et al. 2014, sec. 3)."""
  return _softplus(-fake)


def minimax_g(fake: "Array") -> "Array":
  """log(1 - sigmoid(D(G(z)))): flat where D is sure of the fake."""
  return -_softplus(fake)


def least_squares_d_real(real: "Array", smoothing: float = 0.0) -> "Array":
  """(D(x) - (1 - s))^2 / 2, the half being the paper's (Mao et al. 2017)."""
  return _square(real - (1 - smoothing)) / 2


def least_squares_d_fake(fake: "Array") -> "Array":
  """D(G(z))^2 / 2: targets 0 and 1 (eq. 9 of the paper)."""
  return _square(fake) / 2


def least_squares_g(fake: "Array") -> "Array":
  """(D(G(z)) - 1)^2 / 2."""
  return _square(fake - 1) / 2


def wasserstein_d_real(real: "Array") -> "Array":
  """-D(x) (Arjovsky et al. 2017); D must be kept Lipschitz by other means."""
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
  # Relativistic pairing.
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
  # The same D; G minimizes log(1 - D).
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
