"""The flags of one subcommand: defined, read, refused and shown in help."""

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from bigscale.spec import SpecError

UnknownFlagError = flags.UnrecognizedFlagError


class _LocalPath(flags.ArgumentParser):
  """A file or folder of this machine, which is no address."""


def _definer(define: Callable[..., Any]) -> Callable[..., None]:
  def method(self: "Flags", *arguments: Any, **limits: Any) -> None:
    define(*arguments, flag_values=self, **limits)

  return method


class Flags(flags.FlagValues):
  """The flags of one subcommand.

  `FLAGS.string(name, default, help)` is absl's `DEFINE_string` for these flags
  alone, and so are the other kinds. Values are attributes, as in absl.
  """

  string = _definer(flags.DEFINE_string)
  integer = _definer(flags.DEFINE_integer)
  float = _definer(flags.DEFINE_float)
  bool = _definer(flags.DEFINE_bool)
  enum = _definer(flags.DEFINE_enum)
  list = _definer(flags.DEFINE_list)
  multi_string = _definer(flags.DEFINE_multi_string)
  alias = _definer(flags.DEFINE_alias)

  def local_path(self, name: str, default: str | None, text: str) -> None:
    """Defines a file or folder of this machine; `read` refuses addresses."""
    flags.DEFINE(_LocalPath(), name, default, text, flag_values=self)

  def fields(self, of: type, /, **texts: str) -> None:
    """Defines flags for fields of a dataclass, with their types and defaults.

    Args:
      of: the dataclass.
      **texts: help of each flag, by the name of its field.
    """
    hints = typing.get_type_hints(of)
    defaults = {field.name: field.default for field in dataclasses.fields(of)}
    for name, text in texts.items():
      default, kind = defaults[name], hints[name]
      if isinstance(kind, types.UnionType):
        # Of "int | None".
        kind = typing.get_args(kind)[0]
      if default is dataclasses.MISSING:
        default = None
      if typing.get_origin(kind) is typing.Literal:
        self.enum(name, default, typing.get_args(kind), text)
      else:
        define = {str: self.string, int: self.integer, bool: self.bool}
        define.get(kind, self.float)(name, default, text)

  def fields_of(self, of: type) -> dict[str, Any]:
    """Returns the values of flags named like fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(of)]
    return {name: self[name].value for name in names if name in self}

  def require(self, name: str, example: str) -> Any:
    """Returns the value of a flag that has no default.

    Raises:
      SpecError: it was not given.
    """
    if self[name].value in (None, ""):
      raise SpecError(f"--{name} is missing; give --{name}={example}")
    return self[name].value

  def names(self) -> Sequence[str]:
    """Returns its flags in the order of definition; not those of a config."""
    found = self._flags().values()
    known = (flag.name for flag in found if flag.short_name != "?")
    return [name for name in dict.fromkeys(known) if "." not in name]

  def help(self) -> str:
    """Returns a paragraph for each flag: name, default, text."""
    options = []
    for name in self.names():
      flag = self[name]
      default = "" if flag.default is None else f" [{flag.default_as_str}]"
      options.append(f"  --{name}{default}\n      {flag.help}")
    return "\n".join(options)

  def read(self, argv: Sequence[str]) -> Sequence[str]:
    """Sets the flags, and returns the words that are no flags.

    What an earlier call in this process was told is forgotten.

    Args:
      argv: the name of the command and its words.

    Raises:
      UnknownFlagError: there is no such flag.
      SpecError: a value or the config is refused.
    """
    for name in self:
      # Those with a dot are the config's, which a config file defines anew.
      if "." not in name:
        self[name].unparse()
    rest = self._parse(argv)
    values = {f"--{name}": self[name] for name in self.names()}
    paths = {
      said: flag.value
      for said, flag in values.items()
      if isinstance(flag.parser, _LocalPath)
    }
    paths["$BIGSCALE_CACHE"] = os.environ.get("BIGSCALE_CACHE")
    for said, path in paths.items():
      # A folder named `gs:` would be made otherwise.
      if "://" in str(path):
        raise SpecError(
          f"{said}={path} is an address, not a folder; mount a disk "
          "(Filestore, NFS) and name a path there"
        )
    return rest[1:]

  def _parse(self, argv: Sequence[str]) -> Sequence[str]:
    try:
      return self(argv)
    except UnknownFlagError:
      raise
    except flags.Error as error:
      raise SpecError(str(error)) from error
