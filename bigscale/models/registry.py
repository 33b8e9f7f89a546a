"""From a model's spec to its networks. A new model adds one line."""

from bigscale.models import biggan, biggan_deep, r3gan, stripped
from bigscale.spec import (
  BigganDeepSpec,
  BigganSpec,
  ModelSpec,
  R3ganSpec,
  StrippedSpec,
)
from bigscale.types import GanModel

_MAKERS = {
  R3ganSpec: r3gan.make,
  BigganSpec: biggan.make,
  BigganDeepSpec: biggan_deep.make,
  StrippedSpec: stripped.make,
}


def make_model(spec: ModelSpec, platform: str) -> GanModel:
  """Makes generator and discriminator.

  Args:
    spec: of the model.
    platform: of the devices that will run it: `cpu`, `gpu` or `tpu`. Passed
      rather than asked of JAX, so that a TPU program can be made without one.
  """
  return _MAKERS[type(spec)](spec, platform)
