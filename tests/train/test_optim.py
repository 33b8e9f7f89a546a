"""Schedules over images and the decay of the moving average."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.spec import OptimSpec, Schedule
from bigscale.train import optim
from tests.parallel.tiny_gans import Case, spec_of


@pytest.mark.parametrize(
  ("kimg", "expected"),
  [(0.0, 2e-4), (5.0, 1.25e-4), (10.0, 5e-5), (99.0, 5e-5)],
)
def test_cosine_in_images(kimg, expected):
  schedule = Schedule(first=2e-4, last=5e-5, kimg=10.0)
  value = optim.value(schedule, jnp.float32(kimg * 1000))
  np.testing.assert_allclose(value, expected, rtol=1e-6)


def spec_with(**changes):
  spec = spec_of(Case("biggan", "float32"))
  return dataclasses.replace(
    spec, optim=dataclasses.replace(spec.optim, **changes)
  )


def test_r3gan_cifar_decay():
  """0.5^(512 / 5e6) = 0.99993 at batch 512 (Huang et al. 2024)."""
  spec = dataclasses.replace(
    spec_with(
      d_steps=1, ema_half_life_kimg=Schedule(first=5000.0, last=5000.0)
    ),
    global_batch_size=512,
  )
  decay = optim.ema_decay(spec, jnp.float32(0))
  np.testing.assert_allclose(decay, 0.99993, atol=1e-6)


def test_average_starts_late():
  spec = spec_with(ema_decay=0.9999, ema_start_kimg=1.0)
  assert optim.ema_decay(spec, jnp.float32(999)) == 0
  np.testing.assert_allclose(optim.ema_decay(spec, jnp.float32(1000)), 0.9999)


def test_images_do_not_overflow():
  spec = dataclasses.replace(
    spec_of(Case("biggan", "float32")), global_batch_size=4096
  )
  images = optim.images_seen(spec, jnp.int32(2_000_000))
  np.testing.assert_allclose(images, 2e6 * 2 * 4096, rtol=1e-6)


def test_adam_matches_the_textbook_with_changing_beta2():
  spec = OptimSpec(
    g_lr=Schedule(first=0.1, last=0.1), d_lr=Schedule(first=0.1, last=0.1)
  )
  gradients = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  state = optim.adam(spec, 0.1, 0.9).init(jnp.zeros(4))
  second = np.zeros(4)
  for count, (gradient, beta2) in enumerate(
    zip(gradients, (0.9, 0.95, 0.99), strict=True), start=1
  ):
    updates, state = optim.adam(spec, 0.1, beta2).update(
      jnp.asarray(gradient), state
    )
    second = beta2 * second + (1 - beta2) * gradient**2
    corrected = second / (1 - beta2**count)
    np.testing.assert_allclose(
      updates, -0.1 * gradient / (np.sqrt(corrected) + 1e-8), rtol=1e-5
    )
