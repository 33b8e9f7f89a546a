"""Settings of a config on the command line: `--config.optim.g_lr=1e-4`.

Any field of a spec can be set so, whether the config file mentions it or not:
what a value may be is said by the spec, not by the file. Lists are written
`a,b`, nothing `none`, and the settings of a group may be given one by one,
those of an entry of a list by its number: `--config.data.mixture.0.share=0.5`.
"""

import ast
import contextlib
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from bigscale.spec import ModelBase, SpecError
from bigscale.spec.base import Schedule
from bigscale.spec.model import family

_WORDS = {"true": True, "false": False, "yes": True, "no": False}
_WORDS |= {"1": True, "0": False}
_WHOLE = re.compile("[+-]?[0-9]+")
# Of what the spec does not know: parts of a sweep other than its base.
_ANYTHING = object()


def override(config: Any, root: Any, settings: Sequence[str]) -> None:
  """Sets fields of a config, in place.

  Args:
    config: the config.
    root: what it is of: a spec, or a mapping from keys to specs.
    settings: of the form NAME=VALUE.

  Raises:
    SpecError: the spec has no such field, or the value is not of its type.
  """
  with contextlib.ExitStack() as stack:
    if isinstance(config, ConfigDict):
      stack.enter_context(config.unlocked())
      stack.enter_context(config.ignore_type())
    for setting in settings:
      path, equals, text = setting.partition("=")
      if not equals:
        raise SpecError(f"--config_set={setting} must be NAME=VALUE")
      _set(config, root, path, text)


def _set(config: Any, root: Any, path: str, text: str) -> None:
  """Sets `a.b.c`; groups on the way are made."""
  *groups, last = path.split(".")
  kind, below, gone = root, config, []
  for group in groups:
    kind = _field(kind, group, below, gone)
    gone.append(group)
    below = _group(below, group, kind, ".".join(gone))
  kind = _field(kind, last, below, gone)
  value = _parse(kind, text, f"--config.{path}")
  if isinstance(below, (list, tuple)):
    # The list may be one that nothing can be put into.
    below, last = _outer(config, groups), groups[-1]
    entries = list(below[last])
    entries[int(path.rpartition(".")[2])] = ConfigDict(value)
    value = entries
  below[last] = value


def _outer(config: Any, groups: Sequence[str]) -> Any:
  """What holds the last of some groups, which are all there."""
  for group in groups[:-1]:
    config = config[int(group) if isinstance(config, (list, tuple)) else group]
  return config


def _field(kind: Any, name: str, below: Any, gone: list[str]) -> Any:
  """The type of a field."""
  if kind is _ANYTHING:
    return _ANYTHING
  if isinstance(kind, Mapping):
    return kind.get(name, _ANYTHING)
  where = "--config." + ".".join([*gone, name])
  if item := _item(kind):
    if not (_WHOLE.fullmatch(name) and 0 <= int(name) < len(below)):
      raise SpecError(
        f"{where}: {'.'.join(gone)} has {len(below)} entries, numbered from 0; "
        "a list of other length is given as a whole"
      )
    return item
  chosen = _dataclass(kind, below)
  if chosen is None:
    raise SpecError(f"{where}: {'.'.join(gone)} is one value and no group")
  known = {field.name for field in dataclasses.fields(chosen)}
  types_of = typing.get_type_hints(chosen)
  hints = {field: types_of[field] for field in known}
  if name not in hints:
    close = difflib.get_close_matches(name, hints, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SpecError(
      f"{where}: {chosen.__name__} has no {name!r}, it has "
      f"{', '.join(sorted(hints))}{hint}"
    )
  return hints[name]


def _item(kind: Any) -> type | None:
  """The spec of an entry of a list of groups; None for what is no such list."""
  if typing.get_origin(kind) is not tuple:
    return None
  (item, *_) = typing.get_args(kind)
  return item if dataclasses.is_dataclass(item) else None


def _dataclass(kind: Any, below: Any) -> type | None:
  """The spec of a group; of a model, its family."""
  if kind is ModelBase:
    return family(below.get("name"))
  kinds = [one for one in _members(kind) if dataclasses.is_dataclass(one)]
  return kinds[0] if kinds else None


def _members(kind: Any) -> tuple[Any, ...]:
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    return typing.get_args(kind)
  return (kind,)


def _group(below: Any, name: str, kind: Any, where: str) -> Any:
  """What holds the settings of a group."""
  if isinstance(below, (list, tuple)):
    return below[int(name)]
  value = below.get(name)
  if _item(kind):
    # Of the config's own entries nothing is changed.
    entries = value or ()
    below[name] = [ConfigDict(_settings_of(entry)) for entry in entries]
    return below[name]
  if dataclasses.is_dataclass(value):
    below[name] = ConfigDict(dataclasses.asdict(value))
  elif value is None:
    below[name] = ConfigDict()
  elif isinstance(value, (int, float)) and Schedule in _members(kind):
    # A constant is a schedule that stays where it begins.
    below[name] = ConfigDict({"first": value, "last": value})
  elif not hasattr(value, "items"):
    raise SpecError(f"--config.{where} is {value!r}, one value and no group")
  return below[name]


def _settings_of(entry: Any) -> Mapping[str, Any]:
  if dataclasses.is_dataclass(entry):
    return dataclasses.asdict(entry)
  return dict(entry.items())


def _parse(kind: Any, text: str, where: str) -> Any:
  """A value of a type.

  Raises:
    SpecError: it is none.
  """
  if kind is _ANYTHING:
    return _literal(text)
  members = _members(kind)
  if type(None) in members and text.lower() in ("none", "null"):
    return None
  members = [one for one in members if one is not type(None)]
  said = f"{where}={text}"
  if Schedule in members:
    return _schedule(text, said)
  (member, *others) = members
  if others or dataclasses.is_dataclass(member):
    value = _literal(text)
    if not isinstance(value, dict):
      raise SpecError(
        f"{said} is a group: set its settings, {where}.NAME=VALUE"
      )
    return value
  if typing.get_origin(member) is tuple:
    return tuple(_items(typing.get_args(member)[0], text, where))
  return _scalar(member, text, said)


def _scalar(kind: Any, text: str, said: str) -> Any:
  if typing.get_origin(kind) is typing.Literal:
    # Of no choice the spec says which there are.
    choices = {str(one): one for one in typing.get_args(kind)}
    return choices.get(text, text)
  if kind is bool:
    if text.lower() not in _WORDS:
      raise SpecError(f"{said} must be true or false")
    return _WORDS[text.lower()]
  if kind is int:
    if not _WHOLE.fullmatch(text.strip()):
      raise SpecError(f"{said} must be a whole number")
    return int(text)
  if kind is float:
    return _number(text, said)
  return text


def _number(text: str, said: str) -> float:
  try:
    if "_" in text:
      raise ValueError(text)
    return float(text)
  except ValueError:
    raise SpecError(f"{said} must be a number") from None


def _schedule(text: str, said: str) -> Any:
  value = _literal(text)
  return value if isinstance(value, dict) else _number(text, said)


def _items(kind: Any, text: str, where: str) -> Iterator[Any]:
  """The items of a list: a,b or (a, b) or ['a', 'b']."""
  value = _literal(text)
  if isinstance(value, (list, tuple)):
    if dataclasses.is_dataclass(kind):
      yield from value
      return
    parts = [str(one) for one in value]
  else:
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("()", "[]"):
      inner = inner[1:-1]
    parts = [part.strip() for part in inner.split(",") if part.strip()]
  for part in parts:
    yield _parse(kind, part, where)


def _literal(text: str) -> Any:
  """A value as Python writes it; text where it is none."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
