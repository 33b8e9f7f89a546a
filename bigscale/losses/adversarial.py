"""What the players minimize: one row a loss, all that is known of it in one.

A row holds functions from logits [B] to one value a sample [B]. They are given
at least float32, whatever the networks computed in, and ours are finite in
value and gradient as long as the logits are (the squares while they fit).

Rows of ours are in `OURS`. A loss from elsewhere is a `Separable` or a `Paired`
that `loss.adversarial` names as `package.module:Name`.

A spec reads rows before JAX may start, so that JAX is imported where a loss is
computed.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from bigscale.spec import named
from bigscale.spec.base import SpecError, require

if TYPE_CHECKING:
  from bigscale.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """What all losses say.

  Attributes:
    threshold: the logit above which D takes an image for real, halfway between
      its targets; None where the loss leaves the level of the logits free, so
      that a constant added to D changes nothing. It must be given.
  """

  # NaN: not given, which `find` refuses.
  threshold: float | None = math.nan

  # Of the subclass: whether the i-th fake is compared with the i-th real, and
  # its functions, of which the first may take `smoothing`.
  paired: ClassVar[bool]
  functions: ClassVar[tuple[str, ...]]

  @property
  def smoothing(self) -> bool:
    """Whether the loss takes label smoothing: D's targets for reals can move.

    Its first function then has a parameter `smoothing`.
    """
    return "smoothing" in _parameters(getattr(self, self.functions[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separable(_Row):
  """A loss in which reals and fakes do not meet.

  Attributes:
    d_real: logits of reals [B] to what D pays for each. With a parameter
      `smoothing` in [0, 0.5) its target for reals is 1 less that.
    d_fake: logits of fakes [B] to what D pays for each.
    g: logits of fakes [B] to what G pays for each.
  """

  d_real: "Callable[..., Array] | None" = None
  d_fake: "Callable[[Array], Array] | None" = None
  g: "Callable[[Array], Array] | None" = None

  paired: ClassVar[bool] = False
  functions: ClassVar[tuple[str, ...]] = ("d_real", "d_fake", "g")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paired(_Row):
  """A loss of pairs: the i-th fake beside the i-th real, of the same class.

  G's update then reads a batch of reals of its own.

  Attributes:
    d: logits of reals [B] and of fakes [B] to what D pays for each pair. It
      may take `smoothing`, as `Separable.d_real`.
    g: the same to what G pays.
  """

  d: "Callable[..., Array] | None" = None
  g: "Callable[[Array, Array], Array] | None" = None

  paired: ClassVar[bool] = True
  functions: ClassVar[tuple[str, ...]] = ("d", "g")


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
  where = "of bigscale/losses/adversarial.py"
  require(
    isinstance(row, (Separable, Paired)),
    f"loss.adversarial={name!r} is no loss but {row!r}; make it a "
    f"Separable(...) or a Paired(...) {where}",
  )
  kind = type(row)
  lacking = [
    part for part in kind.functions if not callable(getattr(row, part))
  ]
  require(
    not lacking,
    f"loss.adversarial={name!r} lacks {', '.join(lacking)}; a {kind.__name__} "
    f"{where} has {', '.join(kind.functions)}, functions of logits, and "
    "threshold",
  )
  count = 2 if row.paired else 1
  for part in kind.functions:
    require(
      _takes(getattr(row, part), count),
      f"loss.adversarial={name!r}: {part} of a {kind.__name__} is called with "
      f"{('logits', 'logits of reals and of fakes')[row.paired]}, and cannot "
      "be; a loss that compares fakes with reals is a Paired, any other a "
      "Separable",
    )
  require(
    row.threshold is None
    or (type(row.threshold) in (int, float) and math.isfinite(row.threshold)),
    f"loss.adversarial={name!r} has threshold={row.threshold!r}; give the "
    "logit above which D takes an image for real, halfway between its targets, "
    "or None where the loss leaves the level of the logits free",
  )
  return row


def _parameters(function: Callable[..., object]) -> tuple[str, ...]:
  try:
    return tuple(inspect.signature(function).parameters)
  except ValueError:
    return ()  # Of some functions that are not Python's.


def _takes(function: Callable[..., object], count: int) -> bool:
  """Whether a function can be called with so many arguments."""
  try:
    inspect.signature(function).bind(*[None] * count)
  except ValueError:
    return True
  except TypeError:
    return False
  return True


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
  found = function(*logits, **told)
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
