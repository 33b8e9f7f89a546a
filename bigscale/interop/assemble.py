"""Creates a run folder from imported weights, atomically."""

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
  ConvertedNetworks,
  convert,
  read_players,
  truncation_rule,
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

# The data stream is at its start (`data.pipeline.Stream.get_state`).
_DATA_START = {"records_consumed": 0}


class Imported(NamedTuple):
  """An imported run.

  Attributes:
    spec: spec of the new run.
    state: state before its first step.
    notes: origin of each part, as JSON values: `model`, `recipe`, `generator`,
      `discriminator`, `average`, `spectra`, `statistics`, `truncation`,
      `files`.
    standing: batch norm statistics at all truncations, see
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
  """Reads another implementation's weights as a bigscale run at step 0.

  Args:
    format_name: a key of `formats.FORMATS`.
    file: file of the generator, or of several players.
    d_file: file of the discriminator.
    ema_file: file of the generator's moving average.
    spec: spec of the run, whose model the weights must match. None infers the
      model and uses the family's published recipe.
    source: data source for the recipe.
    unsafe_pickle: see `files.read_tensors`.

  Returns:
    The run. A player without a file is initialized by `init_state`. Without a
    file for G's average, the average is a copy of G. Power iterations that no
    file contains are initialized too.

  Raises:
    SpecError: a file or the spec is invalid; nothing has been written.
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
    "model": "from --config" if spec else "inferred from the tensors",
    "recipe": by,
    "generator": paths[0].name,
    "discriminator": pathlib.Path(d_file or file).name
    if networks.d
    else f"initialized with seed {made.seed}: no file contains one",
    "average": pathlib.Path(ema_file or file).name
    if networks.ema
    else "the generator: no file contains one",
    "spectra": f"{read} from the files, {tracked - read} initialized",
    **_truncation_notes(made, format_name, networks),
  }
  return Imported(made, state, notes, networks.standing)


def _with_authors_rule(spec: RunSpec, format_name: str) -> RunSpec:
  """Sets the weights' published truncation rule if the run does not set one."""
  rule = spec.sampling.truncation_rule or truncation_rule(format_name)
  return dataclasses.replace(spec, sampling=SamplingSpec(truncation_rule=rule))


def _truncation_notes(
  spec: RunSpec, format_name: str, networks: ConvertedNetworks
) -> dict[str, str]:
  """Describes the statistics and the truncation; {} without batch norm."""
  if not networks.g.batch_stats:
    return {}
  statistics = "the file's running statistics"
  if networks.standing:
    count = len(next(iter(networks.standing.values())))
    statistics = f"of {count} truncations from 0 to 1; training starts from 1"
  elif truncation_rule(format_name) == "scale":
    statistics = (
      "of truncation 1, the only ones in the file; measure others with "
      "--standing_batches"
    )
  rule = spec.sampling.truncation_rule
  meaning = {
    "scale": "T * truncnorm(-2, 2)",
    "resample": "N(0, 1) with entries beyond T resampled",
  }
  return {
    "statistics": statistics,
    "truncation": f"rule {rule}: --truncation=T draws {meaning[rule]}"
    if rule
    else "",
  }


def assemble(spec: RunSpec, networks: ConvertedNetworks) -> GanState:
  """Builds the state before the first step, with the imported weights.

  Args:
    spec: spec of the run.
    networks: networks of `spec.model`.
  """
  model = make_model(spec.model, jax.default_backend())
  init = functools.partial(init_state, model, spec)
  averaged = networks.ema or networks.g

  @functools.partial(
    jax.jit,
    compiler_options=compiler.options_to_run_once(jax.default_backend()),
  )
  def unread() -> GanState:
    # The parts to replace are dropped inside jit, so they are not compiled.
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
  """Writes a run folder with a checkpoint at step 0.

  Args:
    out: a folder that does not exist or is empty.
    imported: result of `read_run`.
    command: command to record in the folder.

  Raises:
    FileError: the folder is not empty or cannot be written.
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
  """Removes the parts of a player or average that `weights` contains."""
  if weights is None:
    return part
  fresh = {
    path: spectrum
    for path, spectrum in part.spectra.items()
    if path not in weights.spectra
  }
  return part._replace(params=None, batch_stats=None, spectra=fresh)


def _with(part: Part, weights: ConvertedWeights | None) -> Part:
  """Fills in the parts that `_without` removed."""
  if weights is None:
    return part
  return part._replace(
    params=weights.params,
    batch_stats=weights.batch_stats,
    spectra={**part.spectra, **weights.spectra},
  )
