"""The two terms of the gradient noise scale in an update."""

import jax
import numpy as np
import pytest

from bigscale.monitor import probes
from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import Placement
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train.build import build
from bigscale.train.microbatches import SampleGradient
from bigscale.train.weights import Ready
from tests.e2e import tiny

BATCH = 8


def spec(microbatches=1, noise_scale=True, **mesh):
  config = tiny.get_config()
  config.global_batch_size = BATCH
  config.optim.microbatches = microbatches
  config.log.noise_scale = noise_scale
  config.mesh.update(mesh)
  return from_config(config)


def squared_distance(own, other, stats, samples, shared):
  """Loss whose gradient is the difference between weights and sample."""
  apart = own["net"]["kernel"][None] - samples
  return 0.5 * (apart**2).sum(-1).mean(), (stats, {})


def parts_of(x_bd, devices, microbatches):
  """Returns the samples of each gradient; see `microbatches`."""
  rows = np.split(x_bd, devices)
  return [part[i::microbatches] for part in rows for i in range(microbatches)]


@pytest.mark.parametrize(
  ("devices", "microbatches"), [(1, 4), (4, 1), (2, 2), (8, 1)]
)
def test_noise_of_known_gradients(devices, microbatches):
  rng = np.random.default_rng(0)
  x_bd = rng.normal(size=(BATCH, 5)).astype(np.float32)
  weights = {"net": {"kernel": np.ones(5, np.float32)}}
  placement = Placement(
    make_mesh(MeshSpec(data=devices), jax.devices()[:devices])
  )
  gradient = SampleGradient(spec(microbatches), placement)
  outcome = jax.jit(
    lambda x: gradient(
      squared_distance, Ready(weights, {}), Ready({}, {}), {}, x, {}
    )
  )(x_bd)
  assert outcome.scalars == {}
  parts = parts_of(x_bd, devices, microbatches)
  means = np.stack([1 - part.mean(0) for part in parts])
  small, big = BATCH // len(parts), BATCH
  square_small = (means**2).sum(1).mean()
  square_big = (means.mean(0) ** 2).sum()
  # McCandlish et al. 2018, eq. A.2 and A.3.
  signal = (big * square_big - small * square_small) / (big - small)
  noise = (square_small - square_big) / (1 / small - 1 / big)
  assert outcome.noise == {
    "gradient_signal": pytest.approx(signal, rel=1e-4),
    "gradient_noise": pytest.approx(noise, rel=1e-4),
  }


def test_both_terms_are_unbiased():
  """Their averages over many batches equal the true values."""
  rng = np.random.default_rng(1)
  truth, spread = np.array([0.3, -0.2, 0.1]), np.array([1.0, 2.0, 0.5])
  x = truth + spread * rng.normal(size=(20_000, 4, 2, 3))
  part_square = (x.mean(2) ** 2).sum(-1).mean(1)
  whole_square = (x.mean((1, 2)) ** 2).sum(-1)
  found = probes.gradient_noise(part_square, whole_square, 4, 8)
  for name, expected in (
    ("gradient_signal", (truth**2).sum()),
    ("gradient_noise", (spread**2).sum()),
  ):
    error = found[name].std() / np.sqrt(len(x))
    assert abs(found[name].mean() - expected) < 4 * error
    assert error < 0.1 * expected


def scalars_of(noise_scale):
  asked = spec(noise_scale=noise_scale, data=2)
  built = build(asked, make_mesh(asked.mesh, jax.devices()[:2]))
  state, batch = built.abstract_state, built.abstract_batch
  return set(jax.eval_shape(built.step, state, batch)[1])


def test_a_run_writes_them_if_enabled():
  assert scalars_of(True) - scalars_of(False) == {
    f"{player}/gradient_{term}"
    for player in "dg"
    for term in ("signal", "noise")
  }


def test_a_single_microbatch_is_rejected():
  mesh = make_mesh(MeshSpec(data=1), jax.devices()[:1])
  with pytest.raises(SpecError, match=r"optim\.microbatches=2 or more"):
    SampleGradient(spec(), Placement(mesh))


def test_split_weights_are_rejected():
  with pytest.raises(SpecError, match="use zero or replicated"):
    spec(weights="fsdp")
