"""The flag --config, which names a config file or a shipped config.

`--config=fashion_r3gan` names the same shipped config from any working
directory. `--config=my_config.py` names a file by its path. If both exist, the
file wins.
"""

import difflib
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

import bigscale
from bigscale.cli.flags import Flags, UnknownFlagError
from bigscale.cli.overrides import override
from bigscale.spec import RunSpec, SpecError, from_config, require

_SETTING = re.compile(r"--?config\.([^=]+)(=(.*))?", re.DOTALL)
_NO_SETTING = re.compile(r"--?noconfig\.([^=]+)")


class _ConfigParser(ConfigFileFlagParser):
  """Loads a config file, or a shipped config by its name."""

  metavar = "CONFIG"

  def parse(self, path: str) -> Any:
    try:
      return super().parse(locate(path))
    except TypeError as error:
      if "get_config() takes 0 positional arguments" not in str(error):
        raise
      file, _, argument = path.partition(":")
      raise SpecError(
        f"{file} takes no argument; leave :{argument} out"
      ) from error


class ConfigFlags(Flags):
  """Flags of a command that accepts --config and --config.NAME=VALUE."""

  def define_config(self, text: str) -> None:
    """Defines --config, and a flag for the --config.NAME=VALUE overrides."""
    config_flags.DEFINE_config_file(
      "config",
      help_string=f"{text} A file, FILE.py or FILE.py:ARG, or a shipped "
      f"config, NAME or NAME:ARG. Shipped configs: {', '.join(names())}.",
      flag_values=self,
      # `_parse` reads the overrides, not ml_collections.
      sys_argv=[],
    )
    self["config"].parser = _ConfigParser("config", lock_config=True)
    self.multi_string(
      "config_set",
      [],
      "Override of one config field, NAME=VALUE, usually written as "
      "--config.NAME=VALUE. Lists are written a,b. `bigscale config` lists all "
      "fields.",
    )

  def _parse(self, argv: Sequence[str]) -> Sequence[str]:
    try:
      rest = self(_rewrite(argv))
    except UnknownFlagError:
      raise
    except flags.Error as error:
      raise SpecError(_flag_error(error, argv)) from error
    except ImportError as error:
      raise SpecError(
        f"--config: {error}; start where the module can be imported, or set "
        "PYTHONPATH (for a shipped config: from bigscale.configs import NAME)"
      ) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise SpecError(
        f"--config: {type(error).__name__}: {error}; loading the config file "
        "failed"
      ) from error
    if self.config is None:
      for setting in self.config_set:
        raise SpecError(
          f"--config.{setting} overrides a field of a config, but --config is "
          "missing; add --config=NAME"
        )
    return rest


def _rewrite(argv: Sequence[str]) -> list[str]:
  """Rewrites --config.NAME=VALUE as --config_set=NAME=VALUE."""
  rest, out = list(argv), []
  while rest:
    word = rest.pop(0)
    if denied := _NO_SETTING.fullmatch(word):
      out.append(f"--config_set={denied[1]}=false")
    elif found := _SETTING.fullmatch(word):
      value = found[3]
      if value is None:
        # Either `--config.NAME VALUE` or a switch.
        follows = rest and not rest[0].startswith("--")
        value = rest.pop(0) if follows else "true"
      out.append(f"--config_set={found[1]}={value}")
    else:
      out.append(word)
  return out


def _flag_error(error: Exception, argv: Sequence[str]) -> str:
  """Returns a one-line message for an error in the flags.

  If the config file raised a `SpecError`, the message quotes it. If the config
  file failed otherwise, the message ends with the last line of the traceback.
  """
  message, chain = str(error), [error]
  while chain[-1].__context__:
    chain.append(chain[-1].__context__)
  # ml_collections wraps an error in new errors of the same type, so the
  # original is the last of the chain.
  refusals = [cause for cause in chain if isinstance(cause, SpecError)]
  if refusals:
    given = (arg for arg in argv if arg.startswith("--config="))
    config = next(given, "--config")
    return f"{config}: {refusals[-1]}"
  before, found, after = message.partition("Traceback (most recent call last)")
  if not found:
    return message
  return f"{before.strip()} {after.strip().splitlines()[-1]}"


def config_of(
  values: Flags, root: Any = RunSpec, *, overridden: bool = True
) -> Any:
  """Returns the config, with the overrides of the command line.

  Args:
    values: the parsed flags.
    root: the spec that the config describes, or a mapping from keys to specs.
    overridden: whether to apply the overrides. They change `values.config` in
      place.

  Raises:
    SpecError: the config cannot be loaded, or an override is invalid.
  """
  config = values.config
  try:
    # ml_collections raises an error of loading on first access.
    config.items()
  except OSError as error:
    raise SpecError(f"--config: {error}") from error
  if overridden and values.config_set:
    override(config, root, values.config_set)
  return config


def spec_of(values: Flags, *, overridden: bool = True) -> RunSpec:
  """Returns the frozen config that --config names.

  Args:
    values: the parsed flags.
    overridden: whether to apply the overrides of the command line.

  Raises:
    SpecError: --config is missing, cannot be loaded, or breaks a rule.
  """
  if values.config is None:
    raise SpecError("--config is missing; give --config=fashion_r3gan")
  config = config_of(values, overridden=overridden)
  if "base" in config:
    raise SpecError(
      "--config names a sweep, which has many runs; run it with `bigscale "
      "scaling sweep --config=... --out=DIR`, or give the config of one run"
    )
  return from_config(config)


def names() -> list[str]:
  """Returns the names of all shipped configs: "biggan", "sweeps/NAME"."""
  folder = _folder()
  return sorted(
    path.relative_to(folder).with_suffix("").as_posix()
    for path in folder.rglob("*.py")
    if path.name != "__init__.py"
  )


def locate(config: str) -> str:
  """Returns the value of --config with the name replaced by a path.

  Args:
    config: FILE, FILE:ARG, NAME or NAME:ARG.

  Raises:
    SpecError: the value is neither a file nor the name of a shipped config.
  """
  path, colon, argument = config.partition(":")
  require(path, "the value is empty; give a file or a shipped config's name")
  if os.path.isfile(path):
    return config
  known = names()
  if path in known:
    return f"{_folder() / path}.py{colon}{argument}"
  # The path that the config has in a checkout.
  name = path.removeprefix("./").removeprefix("configs/").removesuffix(".py")
  if name in known:
    hint = f"for the shipped config, give --config={name}"
  elif close := difflib.get_close_matches(name, known, n=1):
    hint = f"did you mean --config={close[0]}?"
  else:
    hint = "give the path of a file, or a name"
  raise SpecError(
    f"{path!r} is neither a file nor the name of a shipped config; {hint} "
    f"(shipped: {', '.join(known)})"
  )


def _folder() -> pathlib.Path:
  # In a checkout, this is a link to configs/ in the root.
  return pathlib.Path(bigscale.__file__).parent.joinpath("configs").resolve()
