"""Exports the generator's moving average as a portable StableHLO program.

The weights, after spectral norm, are constants of the program. A file therefore
takes 4 bytes per parameter, does not need this library, and takes only latents
and labels as inputs. The drawback is that every new batch size compiles the
weights again: on 2 CPU cores, 83 MB of weights took 4.5 s, compared with 3.2 s
if the weights are an argument.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import bigscale
from bigscale.models.make import make_model
from bigscale.ops.images import to_uint8
from bigscale.place import open_object
from bigscale.sampling.latents import law
from bigscale.spec import RunSpec, SpecError
from bigscale.train import tracking
from bigscale.train.state import Average
from bigscale.train.step import Codes, generate
from bigscale.types import Array

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")


def check_platforms(platforms: Sequence[str]) -> None:
  """Raises `SpecError` unless all platforms are in `PLATFORMS`."""
  if not platforms or not set(platforms) <= set(PLATFORMS):
    raise SpecError(
      f"--platforms={','.join(platforms)} must name some of "
      f"{', '.join(PLATFORMS)}"
    )


def export_generator(
  spec: RunSpec, ema: Average, platforms: Sequence[str]
) -> export.Exported:
  """Lowers the generator for any batch size.

  Args:
    spec: spec of the run.
    ema: moving average of the generator, as for `sample`.
    platforms: names in `PLATFORMS` that the program will run on.

  Returns:
    A program from latents [b, latent_dim] float32 and labels [b] int32 (ignored
    if the model has no classes) to images [b, H, W, C] uint8.

  Raises:
    SpecError: a platform is unknown, or there are none.
  """
  check_platforms(platforms)
  # The accelerators' form runs on all platforms. The CPU has its own form.
  model = make_model(spec.model, "cpu" if set(platforms) == {"cpu"} else "tpu")
  params, _ = jax.jit(
    lambda: tracking.normalized(ema.params, ema.spectra, model.g, spec)
  )()
  weights = Average(*jax.tree.map(np.asarray, (params, ema.batch_stats, {})))

  def draw(latents: Array, labels: Array) -> Array:
    return to_uint8(generate(model, spec, weights, Codes(latents, labels)))

  (batch,) = export.symbolic_shape("b")
  return export.export(jax.jit(draw), platforms=tuple(platforms))(
    jax.ShapeDtypeStruct((batch, spec.model.latent_dim), jnp.float32),
    jax.ShapeDtypeStruct((batch,), jnp.int32),
  )


def write(
  out: str | os.PathLike[str],
  exported: export.Exported,
  spec: RunSpec,
  step: int,
  truncation: Mapping[str, Any] | None = None,
) -> int:
  """Writes the serialized program and OUT.json next to it.

  Args:
    out: path or address of the file to write or replace.
    exported: result of `export_generator`.
    spec: spec of the run.
    step: step of the checkpoint.
    truncation: `truncation` and `truncation_rule` of the latents that the
      program's statistics belong to, and notes on the statistics; None means
      no truncation.

  Returns:
    The size of the program in bytes.

  Raises:
    SpecError: a file cannot be written.
  """
  data = bytes(exported.serialize())
  header = _header(exported, spec, step, truncation) | {
    "sha256": hashlib.sha256(data).hexdigest()
  }
  try:
    place, name = open_object(out)
    place.write(name, data)
    place.write(f"{name}.json", json.dumps(header, indent=2).encode())
  except OSError as error:
    raise SpecError(
      f"--out={out} cannot be written ({error.strerror or error}); choose a "
      "writable file on a disk with free space"
    ) from error
  return len(data)


def _header(
  exported: export.Exported,
  spec: RunSpec,
  step: int,
  truncation: Mapping[str, Any] | None,
) -> dict[str, Any]:
  model = spec.model
  truncation = truncation or {"truncation": None, "truncation_rule": "resample"}
  bound, scale = law(truncation["truncation"], truncation["truncation_rule"])
  return {
    "model": model.name,
    "latent_dim": model.latent_dim,
    "num_classes": model.num_classes,
    "resolution": model.resolution,
    "image_channels": model.image_channels,
    "step": step,
    # Latents are `scale` times N(0, 1) with entries resampled into +-`bound`.
    "latents": {"bound": bound, "scale": scale},
    **truncation,
    "platforms": list(exported.platforms),
    "calling_convention_version": exported.calling_convention_version,
    "versions": {"bigscale": bigscale.__version__, "jax": jax.__version__},
  }
