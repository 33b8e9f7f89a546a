"""The network that the name of a score opens."""

import pytest

from bigscale.metrics import efficientnet_store, inception_store
from bigscale.metrics.features import FrozenWeights, open_network


class Network:
  """Records the arguments it is created with."""

  dimension = num_classes = 3
  variables, fingerprint, protocol = {}, "f00d", {}

  def __init__(self, name, weights, mesh, *settings, **named):
    self.name = name
    self.made_with = weights, mesh, *settings, named

  def embed(self, images):
    raise NotImplementedError


@pytest.mark.parametrize(
  ("feature", "resize"), [("inception", "tf1"), ("inception_clean", "clean")]
)
def test_inception_is_opened_by_its_resizing(feature, resize, monkeypatch):
  weights = FrozenWeights({}, "f00d")
  told = []
  monkeypatch.setattr(
    inception_store,
    "load",
    lambda cache_dir: told.append(cache_dir) or weights,
  )
  monkeypatch.setattr(
    inception_store, "Inception", lambda *given: Network(feature, *given)
  )
  opened = open_network(feature, "cache")
  assert opened.made_with == (weights, None, resize, {})
  assert told == ["cache"]


def test_efficientnet_is_opened_at_96_px(monkeypatch):
  weights = FrozenWeights({}, "f00d")
  monkeypatch.setattr(efficientnet_store, "load", lambda: weights)
  monkeypatch.setattr(
    efficientnet_store,
    "EfficientNetLite0",
    lambda *given, **named: Network("efflite0", *given, **named),
  )
  opened = open_network("efflite0")
  assert opened.made_with == (weights, None, {"side": 96})
