"""Networks that process 0 sends to the other processes.

`tests/parallel/test_processes.py` checks that several processes embed as one
does. These tests serialize and rebuild each kind of network.
"""

import json

import jax
import numpy as np
import pytest
from flax import traverse_util

from bigscale.metrics import efficientnet, inception, share
from bigscale.metrics.classifier import train_classifier
from bigscale.metrics.classifier_views import KeptClasses, StackedClassifier
from bigscale.metrics.features import FrozenWeights
from bigscale.metrics.looking import Asked
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec


def weights(leaves):
  rng = np.random.default_rng(0)
  flat = {
    name: rng.normal(size=leaf.shape).astype(leaf.dtype)
    for name, leaf in leaves.items()
  }
  return FrozenWeights(
    traverse_util.unflatten_dict(flat, sep="/"), "abc", "a file"
  )


def classifier():
  images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8, 1)
  return train_classifier(images, np.arange(2), 2, seed=0, steps=1)


NETWORKS = {
  "classifier": classifier,
  "stacked": lambda: StackedClassifier(classifier()),
  "kept": lambda: KeptClasses(StackedClassifier(classifier()), (5, 3)),
  "inception": lambda: inception.Inception(weights(inception.leaves())),
  "inception_clean": lambda: inception.Inception(
    weights(inception.leaves()), resize="clean"
  ),
  "efflite0": lambda: efficientnet.EfficientNetLite0(
    weights(efficientnet.leaves()), side=96
  ),
}


# The two resizes of Inception share all but their name.
_SLOW = ("inception", "efflite0")


@pytest.mark.parametrize(
  "kind",
  [
    pytest.param(kind, marks=pytest.mark.slow if kind in _SLOW else ())
    for kind in NETWORKS
  ],
)
def test_a_network_is_rebuilt_from_its_message(kind):
  network = NETWORKS[kind]()
  mesh = make_mesh(MeshSpec(data=4), jax.devices()[:4])
  asked = Asked((network,), (("fd",),), 100, 10)
  asked = asked._replace(class_counts=(60, 40))
  message = json.loads(json.dumps(share._describe(asked)))
  # All processes use the same labels.
  assert message["class_counts"] == [60, 40]
  (one,) = message["networks"]
  sent = network.variables
  again = share._receive(one, sent, mesh)
  for name in ("name", "dimension", "fingerprint", "protocol"):
    assert getattr(again, name) == getattr(network, name)
  same = jax.tree.map(np.array_equal, again.variables, sent)
  assert jax.tree.all(same)
  # The placeholder of other processes has the same shapes, filled with zeros.
  empty = share._receive(one, None, mesh).variables
  assert jax.tree.map(np.shape, empty) == jax.tree.map(np.shape, sent)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(empty))


def test_a_single_process_keeps_its_networks():
  asked = Asked((classifier(),), (("fd",),), 100, 10)
  assert share.share(asked, make_mesh(MeshSpec())) is asked
