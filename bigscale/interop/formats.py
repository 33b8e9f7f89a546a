"""The import formats, and the players in their files."""

import dataclasses
import functools
import importlib
import os
import re
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from bigscale.interop.files import PLAYERS, FileError, read_tensors
from bigscale.interop.tensors import (
  ConvertedWeights,
  Format,
  Tensors,
  TensorsError,
)
from bigscale.spec import ModelBase, SpecError, TruncationRule
from bigscale.spec.model import families, family


def formats_of(*kinds: type[ModelBase]) -> dict[str, dict[type, str]]:
  """Returns, by format, the model families and their reading modules."""
  found: dict[str, dict[type, str]] = {}
  for kind in kinds:
    for name, module in kind.formats.items():
      found.setdefault(name, {})[kind] = module
  return found


FORMATS = formats_of(*map(family, families()))

_PLAYER = re.compile(rf"({'|'.join(PLAYERS)})[/.](.+)")
# Prefixes of whole networks: DataParallel's and R3GAN's training code's.
_WRAPPERS = ("module.", "Model.")
# Settings of a model that no tensor's shape or name determines.
_NOT_IN_SHAPES = (
  "batch_norm_epsilon",
  "batch_norm_momentum",
  "bf16_stages",
  "dtype",
  "grouped_conv",
  "num_singular_values",
  "precision",
  "spectra_interval",
  "spectral_epsilon",
)


Finite = TypeVar("Finite", ConvertedWeights, dict[str, np.ndarray] | None)


class Players(NamedTuple):
  """State dicts of one training run; None for a missing player."""

  g: Tensors | None
  d: Tensors | None = None
  ema: Tensors | None = None


def truncation_rule(format_name: str) -> TruncationRule | None:
  """Returns the meaning of truncation in a format, None for unknown formats."""
  kinds = FORMATS.get(format_name)
  return _first(kinds).truncation_rule if kinds else None


class ConvertedNetworks(NamedTuple):
  """Converted networks, with the spec that they match.

  Attributes:
    model: spec of the model.
    g: generator.
    d: discriminator.
    ema: moving average of the generator.
    standing: batch norm statistics of the sampled generator at all truncations
      that the authors measured: [N, C] by path, where row i belongs to
      truncation i / (N - 1). None if the format has only one truncation.
  """

  model: ModelBase
  g: ConvertedWeights
  d: ConvertedWeights | None
  ema: ConvertedWeights | None
  standing: dict[str, np.ndarray] | None = None


def read_players(
  file: str | os.PathLike[str],
  d_file: str | os.PathLike[str] | None = None,
  ema_file: str | os.PathLike[str] | None = None,
  *,
  unsafe_pickle: bool = False,
) -> Players:
  """Reads the players of a training run from one or more files.

  Args:
    file: file with a generator's state dict, or with several players under the
      prefixes `G/`, `D/` and `G_ema/` (or `G.` and so on).
    d_file: file with a discriminator's state dict.
    ema_file: file with the state dict of the generator's moving average.
    unsafe_pickle: see `files.read_tensors`.

  Returns:
    The players. If `file` has only G's average, it is used as `g`.

  Raises:
    FileError: a file cannot be read or has no such player, or a player is given
      twice.
  """

  def read(path: str | os.PathLike[str]) -> Players:
    return split_players(read_tensors(path, unsafe_pickle=unsafe_pickle))

  players = read(file)
  if players.g is None and players.ema is not None:
    players = players._replace(g=players.ema)
  if players.g is None:
    raise FileError(
      f"{file} contains no generator; name the file of a generator first"
    )
  for field, path in (("d", d_file), ("ema", ema_file)):
    if not path:
      continue
    if getattr(players, field) is not None:
      raise FileError(
        f"{file} and {path} both contain a {_TITLES[field]}; leave {path} out, "
        "or use a file with only the generator"
      )
    other = read(path)
    # A single player in a file has no prefix and is read as a generator.
    players = players._replace(**{field: getattr(other, field) or other.g})
  return players


def split_players(tensors: Tensors) -> Players:
  """Sorts tensors by their players' prefixes; without prefixes, all are G's.

  Raises:
    TensorsError: only some of the tensors have a prefix.
  """
  matches = {name: _PLAYER.fullmatch(name) for name in tensors}
  if not any(matches.values()):
    return Players(_unwrapped(tensors))
  others = sorted(name for name, match in matches.items() if not match)
  if others:
    listed = "".join(f"\n  extra {n} {tensors[n].shape}" for n in others)
    raise TensorsError(
      f"the file has tensors that belong to none of "
      f"{', '.join(PLAYERS)}:{listed}\n"
      "Save only the players, or one player per file."
    )
  players: dict[str, dict[str, np.ndarray]] = {}
  for name, match in matches.items():
    players.setdefault(match[1], {})[match[2]] = tensors[name]
  return Players(
    *(
      _unwrapped(players[name]) if name in players else None for name in PLAYERS
    )
  )


def convert(
  format_name: str, players: Players, model: ModelBase | None
) -> ConvertedNetworks:
  """Converts state dicts to bigscale networks.

  Args:
    format_name: a key of `FORMATS`, or of `formats` of the model's family.
    players: state dicts that include a generator.
    model: spec that they must match; None infers it from the tensors.

  Raises:
    SpecError: the format has no such model or player.
    TensorsError: names every missing, unexpected and misshaped tensor of every
      player, and every tensor that is not finite.
  """
  known = FORMATS if model is None else FORMATS | formats_of(type(model))
  kinds = FORMATS.get(format_name) or known[format_name]
  if model is not None and type(model) not in kinds:
    raise SpecError(
      f"model.name={model.name!r} of --config does not match weights of "
      f"--format={format_name}; use a config whose model is one of "
      f"{', '.join(kind.name for kind in kinds)}"
    )
  for field, player in (("g", "G"), ("d", "D"), ("ema", "G")):
    tensors = getattr(players, field)
    if tensors is None:
      continue
    if what := _another_network(kinds, format_name, player, tensors):
      raise TensorsError(f"{_TITLES[field]}: {what}")
  if model is None:
    model = _infer(kinds, players)
  reading = _load(kinds[type(model)])
  if players.d is not None and reading.discriminator is None:
    raise SpecError(
      f"--format={format_name} has no discriminator, but one was given; leave "
      "its file out"
    )
  weights: dict[str, ConvertedWeights | None] = {}
  problems = []
  for field, tensors in players._asdict().items():
    made = reading.discriminator if field == "d" else reading.generator
    try:
      weights[field] = (
        None if tensors is None else _finite(made(model, tensors))
      )
    except TensorsError as error:
      problems.append(f"{_TITLES[field]}: {error}")
  if problems:
    hint = _hint(kinds, players, model)
    raise TensorsError("\n".join([*hint, *problems]))
  standing = None
  if reading.standing:
    averaged = players.g if players.ema is None else players.ema
    standing = _finite(reading.standing(model, averaged))
  return ConvertedNetworks(model, **weights, standing=standing)


_TITLES = {"g": "generator", "d": "discriminator", "ema": "moving average"}


def _unwrapped(tensors: Tensors) -> Tensors:
  """Removes a prefix that all names share."""
  for wrapper in _WRAPPERS:
    if all(name.startswith(wrapper) for name in tensors):
      return {name.removeprefix(wrapper): x for name, x in tensors.items()}
  return tensors


def _infer(kinds: Mapping[type, str], players: Players) -> ModelBase:
  return _first(kinds).infer_spec(players.g, players.d)


def _first(kinds: Mapping[type, str]) -> Format:
  return _load(next(iter(kinds.values())))


@functools.cache
def _load(name: str) -> Format:
  """Returns the `FORMAT` of a reading module.

  Raises:
    SpecError: the module has none.
  """
  found = getattr(importlib.import_module(name), "FORMAT", None)
  if not isinstance(found, Format):
    raise SpecError(
      f"{name}, which a family's `formats` names, has no FORMAT; add FORMAT = "
      "bigscale.interop.tensors.Format(generator, infer_spec)"
    )
  return found


def _another_network(
  kinds: Mapping[type, str], format_name: str, player: str, tensors: Tensors
) -> str:
  """Returns what the tensors are if they are not this player's, else ""."""
  expected = _first(kinds)
  if not expected.names:
    return ""
  known = {name: _first(kinds) for name, kinds in FORMATS.items()}
  signatures = {
    (name, whose): pattern
    for name, reading in (known | {format_name: expected}).items()
    for whose, pattern in reading.signatures.items()
  }
  there, who = next(
    (
      kind
      for kind, pattern in signatures.items()
      if any(re.fullmatch(pattern, name) for name in tensors)
    ),
    (None, None),
  )
  if (there, who) == (format_name, player) or (player == "D" and not there):
    return ""
  title = {"G": "generator", "D": "discriminator"}
  if not there:
    names = list(tensors)
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return (
      f"none of its {len(names)} tensors{f' ({listed})' if names else ''} "
      f"belongs to a generator of --format={format_name}, whose names are "
      f"{expected.names}; use a file of that format, or another --format"
    )
  if there != format_name:
    return (
      f"they look like a {title[who]} of --format={there}, not of "
      f"{format_name}; use that --format, or another file"
    )
  return (
    f"they are a {title[who]}'s, not the {title[player]}'s; name the "
    "generator's file first and the discriminator's second"
  )


def _finite(weights: Finite) -> Finite:
  """Returns a network's weights or a table of statistics if it is finite.

  Raises:
    TensorsError: names every tensor with values that are not finite.
  """
  tree = tuple(weights) if isinstance(weights, ConvertedWeights) else weights
  bad = [
    f"  {jax.tree_util.keystr(path, simple=True, separator='/')}: "
    f"{np.sum(~np.isfinite(leaf))} of {leaf.size} values"
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if not np.isfinite(leaf).all()
  ]
  if bad:
    raise TensorsError(
      "NaN or infinite values, by bigscale's paths:\n"
      + "\n".join(bad)
      + "\nThe training run had diverged; use an earlier checkpoint of it."
    )
  return weights


def _hint(
  kinds: Mapping[type, str], players: Players, model: ModelBase
) -> list[str]:
  """Lists the settings in which the spec differs from the inferred one."""
  try:
    looks = dataclasses.asdict(_infer(kinds, players))
  except SpecError:
    return []
  asked = dataclasses.asdict(model)
  lines = [
    f"  model.{name}={asked[name]!r}, but the file's shapes imply "
    f"{looks[name]!r}"
    for name in looks
    if name not in _NOT_IN_SHAPES and looks[name] != asked.get(name)
  ]
  return ["the spec is of another model:", *lines] if lines else []
