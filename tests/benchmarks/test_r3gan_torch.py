"""The PyTorch baseline has our images, logits and penalties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.losses.r1_r2 import logits_and_gradient_penalty
from bigscale.models.r3gan import networks as r3gan
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError, from_config
from tests.fast_compile import OPTIONS

torch = pytest.importorskip("torch")
from tests.benchmarks import r3gan_torch  # noqa: E402

_CONFIG = {
  "global_batch_size": 4,
  "total_kimg": 1.0,
  "model": {
    "name": "r3gan",
    "resolution": 8,
    "num_classes": 3,
    "latent_dim": 6,
    "widths": (16, 8),
    "blocks": (1, 2),
    "cardinality": (4, 2),
    "class_embedding_dim": 5,
  },
  "data": {"source": "fashion_mnist"},
  "loss": {"adversarial": "rpgan", "r1_gamma": 1.0, "r2_gamma": 1.0},
  "optim": {"g_lr": 1e-3, "d_lr": 1e-3},
}
_LABELS = np.array([0, 1, 2, 1], "i4")


def _weights(network):
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  random = np.random.RandomState(0)
  return jax.tree.map(
    lambda x: (0.3 * random.normal(size=x.shape)).astype(x.dtype), shapes
  )


def _load(peer, variables):
  """Copies our weights into PyTorch's; both must have the same weights."""
  state = {}
  for path, w in flatten(variables["params"]).items():
    *parents, name = path.split("/")
    if name == "kernel":
      w = w.T if w.ndim == 2 else w.transpose(3, 2, 0, 1)
    elif name == "basis":
      w = w.transpose(2, 0, 1)
    name = {"kernel": "weight", "embedding": "weight"}.get(name, name)
    state[".".join((*parents, name))] = torch.tensor(np.ascontiguousarray(w))
  peer.load_state_dict(state)


@pytest.mark.parametrize("resample", ["depthwise", "slices"])
def test_peer_computes_what_ours_does(resample):
  spec = from_config(_CONFIG)
  model = r3gan.make(spec.model, "cpu")
  g, d = _weights(model.g), _weights(model.d)
  trainer = r3gan_torch.Trainer(spec, resample=resample)
  _load(trainer.g, g)
  _load(trainer.d, d)
  latents = np.random.RandomState(1).normal(size=(4, 6)).astype("f4")

  def ours(latents):
    images, _ = model.g.apply(g, latents, _LABELS, train=True)
    return images, *logits_and_gradient_penalty(
      lambda x: model.d.apply(d, x, _LABELS), images
    )

  compiled = jax.jit(ours).lower(jnp.asarray(latents)).compile(OPTIONS)
  images, logits, penalties = compiled(latents)
  labels = torch.tensor(_LABELS, dtype=torch.int64)
  theirs = trainer.g(torch.tensor(latents), labels).detach().requires_grad_()
  their_logits = trainer.d(theirs, labels)
  (gradient,) = torch.autograd.grad(their_logits.sum(), theirs)
  their_penalties = gradient.square().sum((1, 2, 3))
  for expected, found in (
    (images, theirs.detach().permute(0, 2, 3, 1)),
    (logits, their_logits.detach()),
    (penalties, their_penalties),
  ):
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4, atol=2e-4)


def test_a_step_moves_both_players_and_the_average():
  spec = from_config(_CONFIG)
  trainer = r3gan_torch.Trainer(spec)
  networks = (trainer.g, trainer.d, trainer.ema)
  before = [[p.clone() for p in n.parameters()] for n in networks]
  loss = trainer.step(r3gan_torch.random_batches(spec))
  assert np.isfinite(loss)
  for network, old in zip(networks, before, strict=True):
    pairs = zip(old, network.parameters(), strict=True)
    # Fixup's zeros make the first gradient of some weights zero.
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_peer_refuses_what_it_does_not_do():
  loss = {**_CONFIG["loss"], "adversarial": "hinge"}
  with pytest.raises(SpecError, match=r"loss\.adversarial='hinge'"):
    r3gan_torch.Trainer(from_config({**_CONFIG, "loss": loss}))
