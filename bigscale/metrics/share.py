"""Shares the feature networks of process 0 with all processes of a run.

Only process 0 loads or trains networks and reads the reals. It sends the
networks that embed samples to the other processes. All processes place them on
a mesh over their devices, so that a pod of many hosts embeds on all its chips.
"""

from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from bigscale.metrics.classifier import Classifier
from bigscale.metrics.classifier_views import KeptClasses, StackedClassifier
from bigscale.metrics.features import Features, FrozenWeights
from bigscale.metrics.looking import Asked
from bigscale.parallel import multihost
from bigscale.spec.scores import network_of
from bigscale.types import PyTree


def share(asked: Asked | None, mesh: Mesh) -> Asked:
  """Returns process 0's evaluation request, usable on every process.

  All processes must call this. They must then call `looking.look` with the
  same samples.

  Args:
    asked: the request of process 0; ignored on the other processes.
    mesh: mesh over the devices of all processes.

  Returns:
    On process 0, the request with its networks placed on the mesh. On the other
    processes, a request that embeds the same samples but collects only
    moments.
  """
  if jax.process_count() == 1:
    return asked
  message = multihost.decide("networks", lambda: _describe(asked))
  networks = []
  for place, one in enumerate(message["networks"]):
    sent = asked.networks[place].variables if multihost.is_main() else None
    networks.append(_receive(one, sent, mesh))
  if multihost.is_main():
    return asked._replace(networks=tuple(networks))
  return Asked(
    tuple(networks),
    ((),) * len(networks),
    message["num_samples"],
    message["num_classes"],
    class_counts=tuple(message["class_counts"]),
  )


def _describe(asked: Asked) -> dict[str, Any]:
  """Returns the request without its weights, as JSON values."""
  names = [network.name for network in asked.networks]
  return {
    "num_samples": asked.num_samples,
    "num_classes": asked.num_classes,
    "class_counts": list(asked.class_counts),
    "networks": [
      {
        **_settings(network, feature),
        "leaves": {
          name: [list(leaf.shape), leaf.dtype.name]
          for name, leaf in _flat(network.variables).items()
        },
      }
      for network, feature in zip(
        asked.networks, asked.features or names, strict=True
      )
    ],
  }


def _settings(network: Features, feature: str) -> dict[str, Any]:
  """Returns the settings that rebuild a network, without its weights."""
  match network:
    case KeptClasses():
      inner = _settings(network.classifier, feature)
      return {**inner, "kept": list(network.kept)}
    case StackedClassifier():
      return {**_settings(network.classifier, feature), "kind": "stacked"}
    case Classifier():
      return {
        "kind": "classifier",
        "num_classes": network.num_classes,
        "image_shape": list(network.image_shape),
      }
  return {
    "kind": "frozen",
    "feature": feature,
    "fingerprint": network.fingerprint,
    "source": network.protocol.get("weights_source", ""),
  }


def _receive(
  message: dict[str, Any], sent: PyTree | None, mesh: Mesh
) -> Features:
  """Rebuilds one of process 0's networks on the mesh.

  Args:
    message: the network's settings and leaf shapes, from `_describe`.
    sent: the network's variables on process 0; None on the others.
    mesh: mesh to place the network on.
  """
  if sent is None:
    leaves = {
      name: np.zeros(shape, dtype)
      for name, (shape, dtype) in message["leaves"].items()
    }
  else:
    leaves = jax.device_get(_flat(sent))
  variables = traverse_util.unflatten_dict(
    jax.tree.map(np.asarray, multihost.broadcast(leaves)), sep="/"
  )
  if message["kind"] in ("classifier", "stacked"):
    shape = tuple(message["image_shape"])
    network = Classifier(variables, message["num_classes"], shape, mesh)
    if message["kind"] == "stacked":
      network = StackedClassifier(network)
    kept = tuple(message.get("kept", ()))
    return KeptClasses(network, kept) if kept else network
  weights = FrozenWeights(variables, message["fingerprint"], message["source"])
  return network_of(message["feature"]).make(weights, mesh)


def _flat(variables: PyTree) -> dict[str, Any]:
  return traverse_util.flatten_dict(variables, sep="/")
