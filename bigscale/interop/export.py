"""The generator's moving average as one portable StableHLO program.

The weights are constants of the program, after spectral norm: a file is as
large as they are (4 bytes a parameter), needs nothing of this library, and is
called with latents and labels alone. The price is that each new batch size
compiles the weights in: on 2 CPU cores, 83 MB of them took 4.5 s, where
weights passed as an argument took 3.2 s.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import bigscale
from bigscale import temporary
from bigscale.models.make import make_model
from bigscale.ops.images import to_uint8
from bigscale.sampling.latents import law
from bigscale.spec import RunSpec, SpecError
from bigscale.train import folder as folders
from bigscale.train import tracking
from bigscale.train.state import Average
from bigscale.train.step import Codes, generate
from bigscale.types import Array

PLATFORMS = ("cpu", "tpu", "cuda", "rocm")


def check_platforms(platforms: Sequence[str]) -> None:
  """Raises `SpecError` unless they are some of `PLATFORMS`."""
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
    spec: of the run.
    ema: its moving average, as `sample` takes it.
    platforms: of `PLATFORMS`, that the program is to run on.

  Returns:
    A program of latents [b, latent_dim] float32 and labels [b] int32 (any,
    where the model has no classes) to images [b, H, W, C] uint8.

  Raises:
    SpecError: there is no such platform, or none was named.
  """
  check_platforms(platforms)
  # What accelerators like runs everywhere; a CPU alone has its own form.
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
  out: pathlib.Path,
  exported: export.Exported,
  spec: RunSpec,
  step: int,
  truncation: Mapping[str, Any] | None = None,
) -> int:
  """Writes the serialized program and, beside it, OUT.json.

  Args:
    out: file, replaced if it is there.
    exported: from `export_generator`.
    spec: of the run.
    step: of the checkpoint.
    truncation: `truncation` and `truncation_rule` of the latents that the
      program's statistics are for, and notes on these; none by default.

  Returns:
    Bytes of the program.

  Raises:
    SpecError: a file cannot be written.
  """
  data = bytes(exported.serialize())
  header = _header(exported, spec, step, truncation) | {
    "sha256": hashlib.sha256(data).hexdigest()
  }
  try:
    with temporary.replacing(out) as partial:
      partial.write_bytes(data)
    folders.write_whole(
      out.with_name(out.name + ".json"), json.dumps(header, indent=2)
    )
  except OSError as error:
    raise SpecError(
      f"--out={out} cannot be written ({error.strerror}); choose a file that "
      "you may write, on a disk with room"
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
    # `scale` times N(0, 1) with entries beyond +-`bound` drawn again.
    "latents": {"bound": bound, "scale": scale},
    **truncation,
    "platforms": list(exported.platforms),
    "calling_convention_version": exported.calling_convention_version,
    "versions": {"bigscale": bigscale.__version__, "jax": jax.__version__},
  }
