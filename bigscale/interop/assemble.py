"""A run folder made of weights from elsewhere, whole or not at all."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.interop import files, standing
from bigscale.interop.formats import (
  AUTHORS_RULES,
  ConvertedNetworks,
  convert,
  read_players,
)
from bigscale.interop.recipes import recipe
from bigscale.interop.tensors import ConvertedWeights
from bigscale.models.make import make_model
from bigscale.parallel import compiler
from bigscale.spec import RunSpec, SamplingSpec
from bigscale.train import folder as folders
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.state import Average, GanState, Player, init_state

Part = TypeVar("Part", Player, Average)

# Nothing of the data has been read (`data.pipeline.Stream.get_state`).
_DATA_START = {"records_consumed": 0}


class Imported(NamedTuple):
  """What was made.

  Attributes:
    spec: of the new run.
    state: before its first step.
    notes: where each part came from, plain JSON: `model`, `recipe`,
      `generator`, `discriminator`, `average`, `spectra`, `statistics`,
      `truncation`, `files`.
    standing: statistics of batch norm at all truncations, see
      `formats.ConvertedNetworks`.
  """

  spec: RunSpec
  state: GanState
  notes: dict[str, Any]
  standing: dict[str, np.ndarray] | None = None


def read_run(
  format_name: str,
  file: str | os.PathLike[str],
  *,
  d_file: str | os.PathLike[str] | None = None,
  ema_file: str | os.PathLike[str] | None = None,
  spec: RunSpec | None = None,
  source: str | None = None,
  unsafe_pickle: bool = False,
) -> Imported:
  """Reads another implementation's weights as a run of ours at step 0.

  Args:
    format_name: a key of `formats.FORMATS`.
    file: of the generator, or of several players.
    d_file: of the discriminator.
    ema_file: of the generator's moving average.
    spec: the run, whose model the weights must fit. None infers the model and
      takes the rest from the family's published recipe.
    source: of the data, for the recipe.
    unsafe_pickle: see `files.read_tensors`.

  Returns:
    The run. A player that no file holds is as `init_state` makes it, G's
    average is G, and so it is with power iterations that no file holds.

  Raises:
    SpecError: a file or the spec is not right; nothing has been written.
  """
  players = read_players(file, d_file, ema_file, unsafe_pickle=unsafe_pickle)
  networks = convert(format_name, players, spec.model if spec else None)
  made, by = (spec, "--config") if spec else recipe(networks.model, source)
  made = _with_authors_rule(made, format_name)
  state = assemble(made, networks)
  paths = [pathlib.Path(path) for path in (file, d_file, ema_file) if path]
  tracked = len(state.g.spectra) + len(state.d.spectra)
  read = len(networks.g.spectra)
  read += len(networks.d.spectra) if networks.d else 0
  notes = {
    "format": format_name,
    "files": [{"name": p.name, "sha256": files.sha256(p)} for p in paths],
    "model": "of --config" if spec else "inferred from the tensors",
    "recipe": by,
    "generator": paths[0].name,
    "discriminator": pathlib.Path(d_file or file).name
    if networks.d
    else f"fresh, of seed {made.seed}: no file holds one",
    "average": pathlib.Path(ema_file or file).name
    if networks.ema
    else "the generator: no file holds one",
    "spectra": f"{read} from the files, {tracked - read} fresh",
    **_truncation_notes(made, format_name, networks),
  }
  return Imported(made, state, notes, networks.standing)


def _with_authors_rule(spec: RunSpec, format_name: str) -> RunSpec:
  """The run, truncating as the weights' authors do unless it says otherwise."""
  rule = spec.sampling.truncation_rule or AUTHORS_RULES.get(format_name)
  return dataclasses.replace(spec, sampling=SamplingSpec(truncation_rule=rule))


def _truncation_notes(
  spec: RunSpec, format_name: str, networks: ConvertedNetworks
) -> dict[str, str]:
  """Which statistics there are, and what `--truncation` means; {} without."""
  if not networks.g.batch_stats:
    return {}
  statistics = "the file's running ones"
  if networks.standing:
    count = len(next(iter(networks.standing.values())))
    statistics = f"of {count} truncations from 0 to 1; training starts from 1"
  elif AUTHORS_RULES.get(format_name) == "scale":
    statistics = (
      "of truncation 1, the only ones in the file; for others measure them "
      "with --standing_batches"
    )
  rule = spec.sampling.truncation_rule
  meaning = {
    "scale": "T * truncnorm(-2, 2)",
    "resample": "N(0, 1), entries beyond T drawn again",
  }
  return {
    "statistics": statistics,
    "truncation": f"rule {rule}: --truncation=T draws {meaning[rule]}"
    if rule
    else "",
  }


def assemble(spec: RunSpec, networks: ConvertedNetworks) -> GanState:
  """The state before the first step, with these weights in it.

  Args:
    spec: of the run.
    networks: of `spec.model`.
  """
  model = make_model(spec.model, jax.default_backend())
  init = functools.partial(init_state, model, spec)
  averaged = networks.ema or networks.g

  @functools.partial(
    jax.jit,
    compiler_options=compiler.options_to_run_once(jax.default_backend()),
  )
  def unread() -> GanState:
    # What is dropped here is not even compiled.
    state = init()
    return state._replace(
      g=_without(state.g, networks.g),
      d=_without(state.d, networks.d),
      ema=_without(state.ema, averaged),
    )

  state = unread()
  state = state._replace(
    g=_with(state.g, networks.g),
    d=_with(state.d, networks.d),
    ema=_with(state.ema, averaged),
  )
  return jax.tree.map(
    lambda shape, leaf: jnp.asarray(leaf, shape.dtype),
    jax.eval_shape(init),
    state,
  )


def write_run(
  out: str | os.PathLike[str], imported: Imported, command: Sequence[str] = ()
) -> None:
  """Writes a run folder with a checkpoint of step 0.

  Args:
    out: a folder that is not there or empty.
    imported: from `read_run`.
    command: recorded in the folder.

  Raises:
    FileError: the folder holds something, or cannot be written.
  """
  spec = imported.spec
  with files.new_folder(files.require_new(out)) as folder:
    folders.create(folder, spec, command)
    notes = dict(imported.notes)
    if imported.standing:
      notes["standing_statistics"] = standing.save(folder, imported.standing)
    checkpoints = Checkpoints(folder, spec.checkpoint)
    try:
      meta = {"kimg": 0.0, "imported": notes}
      checkpoints.save(0, imported.state, _DATA_START, meta)
    finally:
      checkpoints.close()


def _without(part: Part, weights: ConvertedWeights | None) -> Part:
  """A player or an average, less what `weights` hold of it."""
  if weights is None:
    return part
  fresh = {
    path: spectrum
    for path, spectrum in part.spectra.items()
    if path not in weights.spectra
  }
  return part._replace(params=None, batch_stats=None, spectra=fresh)


def _with(part: Part, weights: ConvertedWeights | None) -> Part:
  """Fills what `_without` has left out."""
  if weights is None:
    return part
  return part._replace(
    params=weights.params,
    batch_stats=weights.batch_stats,
    spectra={**part.spectra, **weights.spectra},
  )
