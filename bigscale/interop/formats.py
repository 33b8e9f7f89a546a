"""The formats that weights come in, and which player is what in a file."""

import dataclasses
import importlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from bigscale.interop import recognize
from bigscale.interop.files import PLAYERS, FileError, read_tensors
from bigscale.interop.tensors import ConvertedWeights, Tensors, TensorsError
from bigscale.spec import ModelBase, SpecError, TruncationRule
from bigscale.spec.model import families, family


def formats_of(*kinds: type[ModelBase]) -> dict[str, dict[type, str]]:
  """By format, the families that it has weights of, and the reading modules."""
  found: dict[str, dict[type, str]] = {}
  for kind in kinds:
    for name, module in kind.formats.items():
      found.setdefault(name, {})[kind] = module
  return found


FORMATS = formats_of(*map(family, families()))

# What the authors of each format mean by truncation, where they truncate.
AUTHORS_RULES: dict[str, TruncationRule] = {
  "biggan-pytorch": "resample",
  "biggan-tfhub": "scale",
  "biggan-hf": "scale",
}

_PLAYER = re.compile(rf"({'|'.join(PLAYERS)})[/.](.+)")
# What wraps the whole network there: DataParallel, R3GAN's training code.
_WRAPPERS = ("module.", "Model.")
# A model's settings that no tensor's shape or name tells.
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
  """State dicts of one training; None for a player that is not there."""

  g: Tensors | None
  d: Tensors | None = None
  ema: Tensors | None = None


class ConvertedNetworks(NamedTuple):
  """The same as networks of ours, with the spec that they fit.

  Attributes:
    model: the spec.
    g: the generator.
    d: the discriminator.
    ema: the generator's moving average.
    standing: of the generator that gets sampled, the statistics of batch norm
      at all truncations that its authors measured: [N, C] by path, row i of
      truncation i / (N - 1). None where the format has those of one alone.
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
  """Reads the players of a training from one file or several.

  Args:
    file: a generator's state dict, or several players under the prefixes
      `G/`, `D/` and `G_ema/` (or `G.` and so on).
    d_file: a discriminator's state dict.
    ema_file: that of the generator's moving average.
    unsafe_pickle: see `files.read_tensors`.

  Returns:
    The players; where a file has only G's average, that is `g`.

  Raises:
    FileError: a file cannot be read, holds no such player or one that is
      given twice.
  """

  def read(path: str | os.PathLike[str]) -> Players:
    return split_players(read_tensors(path, unsafe_pickle=unsafe_pickle))

  players = read(file)
  if players.g is None and players.ema is not None:
    players = players._replace(g=players.ema)
  if players.g is None:
    raise FileError(f"{file} holds no generator; name the file of one first")
  for field, path in (("d", d_file), ("ema", ema_file)):
    if not path:
      continue
    if getattr(players, field) is not None:
      raise FileError(
        f"{file} and {path} both hold a {_TITLES[field]}; leave {path} out, or "
        "take the file of the generator alone"
      )
    other = read(path)
    # Alone in a file it goes without a prefix and looks like a generator.
    players = players._replace(**{field: getattr(other, field) or other.g})
  return players


def split_players(tensors: Tensors) -> Players:
  """Sorts tensors by the players' prefixes; without any, all are G's.

  Raises:
    TensorsError: some have a prefix and others none.
  """
  matches = {name: _PLAYER.fullmatch(name) for name in tensors}
  if not any(matches.values()):
    return Players(_unwrapped(tensors))
  others = sorted(name for name, match in matches.items() if not match)
  if others:
    listed = "".join(f"\n  extra {n} {tensors[n].shape}" for n in others)
    raise TensorsError(
      f"beside tensors of {', '.join(PLAYERS)} there are others:{listed}\n"
      "Save the players alone, or one of them to a file."
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
  """Makes networks of ours from state dicts.

  Args:
    format_name: a key of `FORMATS`, or of `formats` of the model's family.
    players: with a generator at least.
    model: that they must fit; None infers it from the tensors.

  Raises:
    SpecError: the format has no such model or player.
    TensorsError: names every missing, extra and misshaped tensor of every
      player, and any that is not finite.
  """
  known = FORMATS if model is None else FORMATS | formats_of(type(model))
  kinds = FORMATS.get(format_name) or known[format_name]
  if model is not None and type(model) not in kinds:
    raise SpecError(
      f"--config's model.name={model.name!r} cannot hold weights of "
      f"--format={format_name}; use a config whose model is one of "
      f"{', '.join(kind.name for kind in kinds)}"
    )
  for field, player in (("g", "G"), ("d", "D"), ("ema", "G")):
    tensors = getattr(players, field)
    if tensors is None:
      continue
    if what := recognize.another_network(format_name, player, tensors):
      raise TensorsError(f"{_TITLES[field]}: {what}")
  if model is None:
    model = _infer(kinds, players)
  module = _load(kinds[type(model)])
  if players.d is not None and not hasattr(module, "discriminator"):
    raise SpecError(
      f"--format={format_name} has no discriminator, and one was given; leave "
      "its file out"
    )
  makers = {"g": "generator", "d": "discriminator", "ema": "generator"}
  weights: dict[str, ConvertedWeights | None] = {}
  problems = []
  for field, maker in makers.items():
    tensors = getattr(players, field)
    try:
      weights[field] = (
        None
        if tensors is None
        else _finite(getattr(module, maker)(model, tensors))
      )
    except TensorsError as error:
      problems.append(f"{_TITLES[field]}: {error}")
  if problems:
    hint = _hint(kinds, players, model)
    raise TensorsError("\n".join([*hint, *problems]))
  standing = None
  if hasattr(module, "standing"):
    averaged = players.g if players.ema is None else players.ema
    standing = _finite(module.standing(model, averaged))
  return ConvertedNetworks(model, **weights, standing=standing)


_TITLES = {"g": "generator", "d": "discriminator", "ema": "moving average"}


def _unwrapped(tensors: Tensors) -> Tensors:
  """Without a prefix that all the names share."""
  for wrapper in _WRAPPERS:
    if all(name.startswith(wrapper) for name in tensors):
      return {name.removeprefix(wrapper): x for name, x in tensors.items()}
  return tensors


def _infer(kinds: Mapping[type, str], players: Players) -> ModelBase:
  """Each format's first module tells all of its models apart."""
  first = _load(next(iter(kinds.values())))
  return first.infer_spec(players.g, players.d)


def _load(name: str) -> Any:
  return importlib.import_module(name)


def _finite(weights: Finite) -> Finite:
  """The weights of a network, or a table of statistics.

  Raises:
    TensorsError: names every tensor with a value that is not finite.
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
      "NaN or infinite, by our names:\n"
      + "\n".join(bad)
      + "\nThat training had diverged; take an earlier checkpoint of it."
    )
  return weights


def _hint(
  kinds: Mapping[type, str], players: Players, model: ModelBase
) -> list[str]:
  """Where the spec asked for is not the one that the shapes look like."""
  try:
    looks = dataclasses.asdict(_infer(kinds, players))
  except SpecError:
    return []
  asked = dataclasses.asdict(model)
  lines = [
    f"  model.{name}={asked[name]!r}, the file's shapes say {looks[name]!r}"
    for name in looks
    if name not in _NOT_IN_SHAPES and looks[name] != asked.get(name)
  ]
  return ["the spec is of another model:", *lines] if lines else []
