"""Checks a user's family of models by tracing its networks before training.

If G or D returned arrays of a wrong shape, broadcasting could let training run,
and only the samples would reveal the error.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bigscale.spec import ModelBase, SpecError, require
from bigscale.types import WHOLE_BATCH, GanModel, Network


@functools.lru_cache(maxsize=64)
def check(spec: ModelBase, platform: str) -> None:
  """Traces both networks of a model abstractly.

  Args:
    spec: spec of the model.
    platform: platform of the devices that will run it.

  Raises:
    SpecError: the family builds no networks, or a network cannot be traced or
      returns arrays of the wrong shape or dtype.
  """
  family = type(spec).__name__
  _check_rules(spec, family)
  model = _called(
    f"make_networks of {family}",
    functools.partial(spec.make_networks, platform, WHOLE_BATCH, None),
  )
  require(
    isinstance(model, GanModel),
    f"make_networks of {family} returned {type(model).__name__}; it must "
    "return a GanModel, which bigscale.models.networks.gan_model builds",
  )
  # With one sample, a mean over the batch and the sample would be the same.
  batch = max(2, spec.batch_norm_group_size)
  dtype = jnp.dtype(spec.dtype)
  image = (spec.resolution, spec.resolution, spec.image_channels)
  labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
  latents = jax.ShapeDtypeStruct((batch, spec.latent_dim), dtype)
  images = jax.ShapeDtypeStruct((batch, *image), dtype)
  for train in (True, False):
    made, _ = _traced(
      f"the generator of {family}", model.g, (latents, labels), train=train
    )
    _check_output(
      f"the generator of {family}", made, images.shape, "images [B, H, W, C]"
    )
  logits = _traced(f"the discriminator of {family}", model.d, (images, labels))
  _check_output(
    f"the discriminator of {family}", logits, (batch,), "logits [B]"
  )


def _traced(
  who: str, network: Network, inputs: tuple[Any, ...], **options: bool
) -> Any:
  variables = _called(
    f"the initialization of {who}",
    lambda: jax.eval_shape(network.init, jax.random.key(0)),
  )
  call = functools.partial(network.apply, **options)
  return _called(who, lambda: jax.eval_shape(call, variables, *inputs))


def _called(who: str, function: Callable[[], Any]) -> Any:
  try:
    return function()
  except SpecError:
    raise
  except Exception as error:
    message = str(error).strip().partition("\n")[0]
    raise SpecError(
      f"{who} fails with {type(error).__name__}: {message}; "
      "docs/how-to/extend.md describes the inputs and outputs of networks"
    ) from error


def _check_output(
  who: str, found: Any, shape: tuple[int, ...], what: str
) -> None:
  given = getattr(found, "shape", type(found).__name__)
  require(
    given == shape and jnp.issubdtype(found.dtype, jnp.floating),
    f"{who} returns {getattr(found, 'dtype', '')} {given} for {shape[0]} "
    f"samples; it must return floating-point {what}, here {shape}",
  )


def _check_rules(spec: ModelBase, family: str) -> None:
  for rule in spec.sharding_rules:
    try:
      pattern, axes = rule
      re.compile(pattern)
      sound = all(type(axis) is int for axis in axes)
    except (TypeError, ValueError, re.error):
      sound = False
    require(
      sound and not isinstance(rule, str),
      f"sharding_rules of {family} contains {rule!r}; a rule is (pattern of a "
      'path, axes), for example (r"(.*/)?positions", ())',
    )
