"""Losses compared with formulas by hand and in float64, and invariances."""

import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses import adversarial
from bigscale.spec import LossSpec, SpecError

_REAL = jnp.array([2.0, -1.0, 0.0])
_FAKE = jnp.array([-3.0, 0.5, 0.0])
# (name, smoothing)
_ALL = [(name, 0.0) for name in adversarial.OURS] + [
  ("non_saturating", 0.1),
  ("minimax", 0.25),
  ("least_squares", 0.1),
]


def _log_sigmoid(x):
  return -np.log1p(np.exp(-x))


def _reference(name, smoothing, r, f):
  """Returns the papers' (D, its term of reals, its term of fakes, G)."""
  p, q = _log_sigmoid(r), _log_sigmoid(f)
  not_p, not_q = _log_sigmoid(-r), _log_sigmoid(-f)
  if name == "rpgan":
    return -_log_sigmoid(r - f), None, None, -_log_sigmoid(f - r)
  cross_entropy = -(1 - smoothing) * p - smoothing * not_p
  real, fake, g = {
    "hinge": (np.maximum(0, 1 - r), np.maximum(0, 1 + f), -f),
    "non_saturating": (cross_entropy, -not_q, -q),
    "minimax": (cross_entropy, -not_q, not_q),
    "least_squares": (
      0.5 * (r - 1 + smoothing) ** 2,
      0.5 * f**2,
      0.5 * (f - 1) ** 2,
    ),
    "wasserstein": (-r, f, -f),
  }[name]
  return real + fake, real, fake, g


def _draws(count=64):
  random = np.random.RandomState(0)
  # float32 values, so that both sides use the same numbers, away from the kink
  # of the hinge.
  draws = random.normal(scale=3, size=(2, count)).astype(np.float32)
  assert np.abs(np.abs(draws) - 1).min() > 1e-3
  return draws


@pytest.mark.parametrize(("name", "smoothing"), _ALL)
def test_values_and_gradients_are_those_of_the_papers(name, smoothing):
  logits = _draws()
  loss = adversarial.make(name, smoothing)

  @jax.jit
  def run(logits):
    values = (*loss.d(*logits), loss.g(*logits))
    slopes = {
      0: jax.grad(lambda x: jnp.sum(loss.d(x[0], x[1]).total))(logits),
      3: jax.grad(lambda x: jnp.sum(loss.g(x[0], x[1])))(logits),
    }
    return values, slopes

  values, slopes = run(jnp.asarray(logits))
  expected = _reference(name, smoothing, *np.float64(logits))
  for found, value in zip(values, expected, strict=True):
    if value is None:
      assert found is None
    else:
      np.testing.assert_allclose(found, value, rtol=2e-6, atol=2e-6)
  step = 1e-5
  for player, slope in slopes.items():
    for side in range(2):
      ends = []
      for sign in (1, -1):
        moved = np.float64(logits)
        moved[side] += sign * step
        ends.append(_reference(name, smoothing, *moved)[player])
      difference = (ends[0] - ends[1]) / (2 * step)
      np.testing.assert_allclose(slope[side], difference, atol=1e-6)


def test_by_hand():
  def of(name, smoothing=0.0):
    loss = adversarial.make(name, smoothing)
    return (*loss.d(_REAL, _FAKE)[1:], loss.g(None, _FAKE))

  log2 = np.log(2)
  close = np.testing.assert_allclose
  close(of("hinge"), [[0, 2, 1], [0, 1.5, 1], [3, -0.5, 0]])
  close(of("wasserstein"), [[-2, 1, 0], [-3, 0.5, 0], [3, -0.5, 0]])
  close(of("least_squares"), [[0.5, 2, 0.5], [4.5, 0.125, 0], [8, 0.125, 0.5]])
  close(of("least_squares", 0.2)[0], [0.72, 1.62, 0.32], rtol=1e-6)
  for terms in (of("non_saturating"), of("minimax")):
    close([terms[0][2], terms[1][2]], log2)
    close(terms[0][0], np.log1p(np.exp(-2)), rtol=1e-6)
  close(of("non_saturating")[2][2], log2)
  close(of("minimax")[2][2], -log2)
  rpgan = adversarial.make("rpgan")
  close(rpgan.d(_REAL, _FAKE).total[2], log2)
  close(rpgan.d(_REAL, _FAKE).total[0], np.log1p(np.exp(-5)), rtol=1e-5)
  close(rpgan.g(_REAL, _FAKE)[1], np.log1p(np.exp(-1.5)), rtol=1e-6)


@pytest.mark.parametrize("name", adversarial.OURS)
def test_only_paired_losses_need_reals(name):
  loss = adversarial.make(name)
  spec = LossSpec(adversarial=name)
  assert spec.paired == (name == "rpgan")
  if spec.paired:
    assert np.abs(loss.g(_REAL, _FAKE) - loss.g(-_REAL, _FAKE)).max() > 0.1
  else:
    np.testing.assert_array_equal(loss.g(None, _FAKE), loss.g(_REAL, _FAKE))


def test_rpgan_depends_only_on_differences_of_pairs():
  for loss in (adversarial.rpgan_d, adversarial.rpgan_g):
    np.testing.assert_allclose(
      loss(_REAL + 7, _FAKE + 7), loss(_REAL, _FAKE), rtol=1e-5
    )
    repaired = loss(_REAL, jnp.roll(_FAKE, 1))
    assert np.abs(repaired - loss(_REAL, _FAKE)).max() > 0.1


def test_rpgan_players_swap_roles():
  np.testing.assert_array_equal(
    adversarial.rpgan_d(_REAL, _FAKE), adversarial.rpgan_g(_FAKE, _REAL)
  )


@pytest.mark.parametrize(("name", "smoothing"), _ALL)
def test_extreme_logits_stay_finite_in_value_and_gradient(name, smoothing):
  loss = adversarial.make(name, smoothing)
  extremes = jnp.array([[1e4, -1e4, 1e4, -1e4], [1e4, 1e4, -1e4, -1e4]])

  @jax.jit
  def run(logits):
    d = jax.value_and_grad(lambda x: jnp.sum(loss.d(x[0], x[1]).total))
    g = jax.value_and_grad(lambda x: jnp.sum(loss.g(x[0], x[1])))
    return d(logits), g(logits)

  for found in jax.tree.leaves(run(extremes)):
    assert np.isfinite(found).all()


def test_slopes_at_extreme_logits_are_the_limits():
  def slope(name, player, smoothing=0.0):
    loss = adversarial.make(name, smoothing)
    total = {
      "real": lambda x: jnp.sum(loss.d(x, 0 * x).total),
      "fake": lambda x: jnp.sum(loss.d(0 * x, x).total),
      "g": lambda x: jnp.sum(loss.g(0 * x, x)),
    }[player]
    return jax.grad(total)(jnp.array([-1e4, 1e4]))

  close = np.testing.assert_allclose
  close(slope("rpgan", "real"), [-1, 0])
  close(slope("rpgan", "g"), [-1, 0])
  close(slope("non_saturating", "real"), [-1, 0])
  # Confidence is penalized: the best logit is log((1 - s) / s).
  close(slope("non_saturating", "real", 0.1), [-0.9, 0.1], rtol=1e-6)
  close(slope("non_saturating", "fake"), [0, 1])
  close(slope("non_saturating", "g"), [-1, 0])
  close(slope("minimax", "g"), [0, -1])
  close(slope("hinge", "real"), [-1, 0])
  close(slope("hinge", "fake"), [0, 1])


@pytest.mark.parametrize("name", ["non_saturating", "minimax", "least_squares"])
def test_smoothing_moves_the_best_real_logit_alone(name):
  plain, smooth = adversarial.make(name), adversarial.make(name, 0.2)
  best = 0.8 if name == "least_squares" else np.log(0.8 / 0.2)
  slope = jax.grad(lambda x: jnp.sum(smooth.d(x, x).real))
  np.testing.assert_allclose(slope(jnp.array([best])), 0, atol=1e-6)
  np.testing.assert_array_equal(
    plain.d(_REAL, _FAKE).fake, smooth.d(_REAL, _FAKE).fake
  )
  np.testing.assert_array_equal(plain.g(None, _FAKE), smooth.g(None, _FAKE))


@pytest.mark.parametrize(("name", "smoothing"), _ALL)
def test_half_precision_logits_give_float32_losses(name, smoothing):
  # 300.5 is not a bfloat16 number, so a bfloat16 loss would be rounded.
  half = [jnp.array([300.0], jnp.bfloat16), jnp.array([-0.5], jnp.bfloat16)]
  single = [x.astype(jnp.float32) for x in half]
  loss = adversarial.make(name, smoothing)
  for found, expected in zip(
    jax.tree.leaves((loss.d(*half), loss.g(*half))),
    jax.tree.leaves((loss.d(*single), loss.g(*single))),
    strict=True,
  ):
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("wgan",), "'wgan' is not a loss; use one of 'rpgan', 'hinge'"),
    (("hinge", 0.1), "label_smoothing=0.1 does not apply to 'hinge'"),
    (("rpgan", 0.1), "set it to 0, or use one of non_saturating"),
  ],
)
def test_invalid_losses_are_refused(arguments, message):
  with pytest.raises(SpecError, match=message):
    adversarial.make(*arguments)


@pytest.mark.parametrize("name", adversarial.OURS)
def test_the_sign_ignores_the_level_where_the_loss_does(name):
  loss = adversarial.make(name)
  real, fake = jnp.asarray([1.0, -2.0, 3.0]), jnp.asarray([2.0, -3.0, 3.0])
  free = name in ("rpgan", "wasserstein")
  plain = np.sign(real - fake) if free else np.sign(real)
  np.testing.assert_array_equal(loss.sign(real, fake), plain)
  raised = loss.sign(real + 8, fake + 8)
  np.testing.assert_array_equal(raised, plain if free else np.ones(3))


def test_the_threshold_of_least_squares():
  loss = adversarial.make("least_squares")
  real = jnp.asarray([0.4, 0.5, 0.6])
  np.testing.assert_array_equal(loss.sign(real, real), [-1, 0, 1])


def test_messages_list_all_losses():
  page = pathlib.Path(__file__).parents[2] / "docs/reference/configs.md"
  for name in adversarial.OURS:
    assert f"`{name}`" in page.read_text(), name


def test_a_spec_is_read_without_jax():
  """Its loss as well, because JAX's startup settings may be set afterwards."""
  code = (
    "import sys; from bigscale.spec import LossSpec;"
    "spec = LossSpec(adversarial='least_squares', label_smoothing=0.1);"
    "print(spec.paired, spec.threshold, 'jax' in sys.modules)"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.split() == ["False", "0.5", "False"]
