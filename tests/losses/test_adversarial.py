"""Losses by hand, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses import adversarial

_REAL = jnp.array([2.0, -1.0, 0.0])
_FAKE = jnp.array([-3.0, 0.5, 0.0])


def _softplus(x):
  return np.log1p(np.exp(np.asarray(x, np.float64)))


def test_rpgan_by_hand():
  difference = np.array([5.0, -1.5, 0.0])
  np.testing.assert_allclose(
    adversarial.rpgan_d(_REAL, _FAKE), _softplus(-difference), rtol=1e-6
  )
  np.testing.assert_allclose(
    adversarial.rpgan_g(_REAL, _FAKE), _softplus(difference), rtol=1e-6
  )


def test_hinge_by_hand():
  np.testing.assert_array_equal(adversarial.hinge_d_real(_REAL), [0, 2, 1])
  np.testing.assert_array_equal(adversarial.hinge_d_fake(_FAKE), [0, 1.5, 1])
  np.testing.assert_array_equal(adversarial.hinge_g(_FAKE), [3, -0.5, 0])


def test_rpgan_sees_only_differences_of_pairs():
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


def test_rpgan_is_finite_and_sloped_at_extreme_logits():
  gradient = jax.grad(lambda x: jnp.sum(adversarial.rpgan_d(x, 0 * x)))
  np.testing.assert_allclose(gradient(jnp.array([-1e4, 1e4])), [-1, 0])
  np.testing.assert_allclose(
    adversarial.rpgan_d(jnp.array([-1e4]), jnp.zeros(1)), 1e4
  )


@pytest.mark.parametrize(
  ("loss", "count"),
  [
    (adversarial.rpgan_d, 2),
    (adversarial.rpgan_g, 2),
    (adversarial.hinge_d_real, 1),
    (adversarial.hinge_d_fake, 1),
    (adversarial.hinge_g, 1),
  ],
)
def test_half_precision_logits_give_float32_losses(loss, count):
  # 300.5 is no bfloat16: a loss computed in it would round.
  logits = [jnp.array([300.0], jnp.bfloat16), jnp.array([-0.5], jnp.bfloat16)]
  found = loss(*logits[:count])
  assert found.dtype == jnp.float32
  expected = loss(*(x.astype(jnp.float32) for x in logits[:count]))
  np.testing.assert_array_equal(found, expected)
