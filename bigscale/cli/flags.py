"""The flags of one subcommand: definition, parsing, checks and help text."""

import dataclasses
import os
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from bigscale.spec import SpecError

UnknownFlagError = flags.UnrecognizedFlagError

_WIDTH = 79


class _LocalPath(flags.ArgumentParser):
  """A local file or folder, as opposed to an address such as gs://bucket."""

  metavar = "PATH"


class _Path(flags.ArgumentParser):
  """A local file or folder, or an address such as gs://bucket/run."""

  metavar = "PATH"


def _definer(define: Callable[..., Any]) -> Callable[..., None]:
  def method(self: "Flags", *arguments: Any, **limits: Any) -> None:
    define(*arguments, flag_values=self, **limits)

  return method


class Flags(flags.FlagValues):
  """The flags of one subcommand.

  `FLAGS.string(name, default, help)` is absl's `DEFINE_string`, but defines the
  flag for this subcommand only. The other kinds work the same way. Values are
  read as attributes, as in absl.
  """

  string = _definer(flags.DEFINE_string)
  integer = _definer(flags.DEFINE_integer)
  float = _definer(flags.DEFINE_float)
  bool = _definer(flags.DEFINE_bool)
  enum = _definer(flags.DEFINE_enum)
  list = _definer(flags.DEFINE_list)
  multi_string = _definer(flags.DEFINE_multi_string)
  alias = _definer(flags.DEFINE_alias)

  def __init__(self) -> None:
    super().__init__()
    # `FlagValues` treats attributes as flags.
    self.__dict__["_headings"] = {}

  def heading(self, text: str) -> None:
    """Starts a group: help lists the flags defined next under this heading."""
    self.__dict__["_headings"][len(self.names())] = text

  def local_path(self, name: str, default: str | None, text: str) -> None:
    """Defines a local file or folder; `read` refuses addresses for it."""
    flags.DEFINE(_LocalPath(), name, default, text, flag_values=self)

  def address(self, name: str, default: str | None, text: str) -> None:
    """Defines a local file or folder, or an address of one."""
    flags.DEFINE(_Path(), name, default, text, flag_values=self)

  def fields(self, of: type, /, **texts: str) -> None:
    """Defines flags for fields of a dataclass, with their types and defaults.

    Args:
      of: the dataclass.
      **texts: help text of each flag, by field name.
    """
    hints = typing.get_type_hints(of)
    defaults = {field.name: field.default for field in dataclasses.fields(of)}
    for name, text in texts.items():
      default, kind = defaults[name], hints[name]
      if isinstance(kind, types.UnionType):
        # `int | None` becomes `int`.
        kind = typing.get_args(kind)[0]
      if default is dataclasses.MISSING:
        default = None
      if typing.get_origin(kind) is typing.Literal:
        self.enum(name, default, typing.get_args(kind), text)
      else:
        define = {str: self.string, int: self.integer, bool: self.bool}
        define.get(kind, self.float)(name, default, text)

  def fields_of(self, of: type) -> dict[str, Any]:
    """Returns the values of the flags named after fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(of)]
    return {name: self[name].value for name in names if name in self}

  def require(self, name: str, example: str) -> Any:
    """Returns the value of a required flag.

    Args:
      name: name of the flag.
      example: a possible value, for the error message.

    Raises:
      SpecError: the flag is missing.
    """
    if self[name].value in (None, ""):
      raise SpecError(f"--{name} is missing; give --{name}={example}")
    return self[name].value

  def names(self) -> Sequence[str]:
    """Returns the names of the flags in order of definition.

    Names with a dot, which come from a config file, are left out.
    """
    found = self._flags().values()
    known = (flag.name for flag in found if flag.short_name != "?")
    return [name for name in dict.fromkeys(known) if "." not in name]

  def help(self) -> str:
    """Returns the help text of all flags, in groups."""
    headings = self.__dict__["_headings"]
    lines = [] if 0 in headings or not self.names() else ["Flags:"]
    for index, name in enumerate(self.names()):
      if index in headings:
        lines += [*([""] if lines else []), f"{headings[index]}:"]
      lines += _help_of(name, self[name])
    return "\n".join(lines)

  def read(self, argv: Sequence[str]) -> Sequence[str]:
    """Parses the flags and returns the positional arguments.

    Values from an earlier call in this process are reset first.

    Args:
      argv: name of the command, then its arguments.

    Raises:
      UnknownFlagError: there is no such flag.
      SpecError: a value or the config is invalid.
    """
    for name in self:
      # Flags with a dot belong to the config, and loading it redefines them.
      if "." not in name:
        self[name].unparse()
    rest = self._parse(argv)
    values = {f"--{name}": self[name] for name in self.names()}
    paths = {
      name: flag.value
      for name, flag in values.items()
      if isinstance(flag.parser, _LocalPath)
    }
    paths["$BIGSCALE_CACHE"] = os.environ.get("BIGSCALE_CACHE")
    for name, path in paths.items():
      # Without this check, a local folder named `gs:` would be created.
      if "://" in str(path):
        raise SpecError(
          f"{name}={path} is an address, and this must be a path on this "
          "machine; name a local file or folder"
        )
    return rest[1:]

  def _parse(self, argv: Sequence[str]) -> Sequence[str]:
    try:
      return self(argv)
    except UnknownFlagError:
      raise
    except flags.Error as error:
      raise SpecError(str(error)) from error


def _help_of(name: str, flag: flags.Flag) -> list[str]:
  """Returns the help of one flag: a line with its type and default, text."""
  # absl adds the choices of an enum and a note about repeated flags.
  text, repeated, _ = flag.help.partition(";\n    repeat this option")
  if choices := getattr(flag.parser, "enum_values", None):
    text = text.removeprefix(f"<{'|'.join(choices)}>: ")
  if repeated:
    text += " May be repeated."
  line = f"  --{name}{_metavar(flag, choices)}"
  if (default := _default_in_words(flag)) is not None:
    line += f"  (default: {default})"
  indent = " " * 6
  return [
    line,
    *textwrap.wrap(
      text,
      _WIDTH,
      initial_indent=indent,
      subsequent_indent=indent,
      break_long_words=False,
      break_on_hyphens=False,
    ),
  ]


def _metavar(flag: flags.Flag, choices: Sequence[str] | None) -> str:
  """Returns the part of `--name=VALUE` after the name; "" for a switch."""
  if choices:
    return f"={'|'.join(choices)}"
  kinds = {
    flags.BooleanParser: "",
    flags.IntegerParser: "=INT",
    flags.FloatParser: "=FLOAT",
    flags.ListParser: "=A,B,...",
  }
  metavar = getattr(flag.parser, "metavar", "TEXT")
  return kinds.get(type(flag.parser), f"={metavar}")


def _default_in_words(flag: flags.Flag) -> str | None:
  """Returns the default as help shows it; None if the flag has none."""
  if flag.default in (None, "", [], ()):
    return None
  if isinstance(flag.default, bool):
    return f"{flag.default}".lower()
  if isinstance(flag.default, (list, tuple)):
    return ",".join(flag.default)
  return f"{flag.default}"
