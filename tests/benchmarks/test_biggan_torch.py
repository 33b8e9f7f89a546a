"""The PyTorch baseline of BigGAN's timings is the same network."""

import jax
import pytest

from bigscale.models.make import make_model

torch = pytest.importorskip("torch")

from tests.benchmarks import biggan_torch, step_against_torch  # noqa: E402


@pytest.mark.parametrize("resolution", [32, 64])
def test_as_many_parameters(resolution):
  spec = step_against_torch.spec_of("biggan", resolution, 2)
  model = make_model(spec.model, "cpu")
  peers = (
    biggan_torch.Generator(spec.model),
    biggan_torch.Discriminator(spec.model),
  )
  for ours, peer in zip((model.g, model.d), peers, strict=True):
    shapes = jax.eval_shape(ours.init, jax.random.key(0))["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert sum(p.numel() for p in peer.parameters()) == count


def test_a_step_has_a_loss():
  spec = step_against_torch.spec_of("biggan", 32, 2)
  step = biggan_torch.make_step(spec, threads=1)
  assert 0 < step() < 100
