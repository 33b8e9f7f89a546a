"""Overrides of config fields on the command line: `--config.optim.g_lr=1e-4`.

Every field of a spec can be overridden, even if the config file does not set
it. The spec, not the file, decides which values are valid. Lists are written
`a,b` and None is written `none`. The path of a field in a list of groups
contains the index of the entry: `--config.data.mixture.0.share=0.5`.
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
# The type of fields without a spec: those of a sweep outside its base.
_ANYTHING = object()


def override(config: Any, root: Any, settings: Sequence[str]) -> None:
  """Sets fields of a config in place.

  Args:
    config: the config.
    root: the spec that the config describes, or a mapping from keys to specs.
    settings: overrides of the form NAME=VALUE.

  Raises:
    SpecError: the spec has no such field, or the value has the wrong type.
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
  """Sets the field at the path `a.b.c` and creates missing groups."""
  *groups, last = path.split(".")
  kind, group, above = root, config, []
  for name in groups:
    kind = _field_type(kind, name, group, above)
    above.append(name)
    group = _enter(group, name, kind, ".".join(above))
  kind = _field_type(kind, last, group, above)
  value = _parse(kind, text, f"--config.{path}")
  if isinstance(group, (list, tuple)):
    # The list may be a tuple, so replace it by a new list.
    group, last = _parent(config, groups), groups[-1]
    entries = list(group[last])
    entries[int(path.rpartition(".")[2])] = ConfigDict(value)
    value = entries
  group[last] = value


def _parent(config: Any, groups: Sequence[str]) -> Any:
  """Returns the group that contains the last of nested groups."""
  for group in groups[:-1]:
    config = config[int(group) if isinstance(config, (list, tuple)) else group]
  return config


def _field_type(kind: Any, name: str, group: Any, above: list[str]) -> Any:
  """Returns the type of a field.

  Args:
    kind: type of the group.
    name: name of the field.
    group: the group in the config.
    above: path of the group.

  Raises:
    SpecError: there is no such field.
  """
  if kind is _ANYTHING:
    return _ANYTHING
  if isinstance(kind, Mapping):
    return kind.get(name, _ANYTHING)
  where = "--config." + ".".join([*above, name])
  if item := _item(kind):
    if not (_WHOLE.fullmatch(name) and 0 <= int(name) < len(group)):
      raise SpecError(
        f"{where}: {'.'.join(above)} has {len(group)} entries, numbered from "
        "0; to change the length, set the whole list"
      )
    return item
  chosen = _dataclass(kind, group)
  if chosen is None:
    raise SpecError(f"{where}: {'.'.join(above)} is a value, not a group")
  known = {field.name for field in dataclasses.fields(chosen)}
  types_of = typing.get_type_hints(chosen)
  hints = {field: types_of[field] for field in known}
  if name not in hints:
    close = difflib.get_close_matches(name, hints, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise SpecError(
      f"{where}: {chosen.__name__} has no field {name!r}; its fields: "
      f"{', '.join(sorted(hints))}{hint}"
    )
  return hints[name]


def _item(kind: Any) -> type | None:
  """Returns the spec of an entry if the type is a list of groups, else None."""
  if typing.get_origin(kind) is not tuple:
    return None
  (item, *_) = typing.get_args(kind)
  return item if dataclasses.is_dataclass(item) else None


def _dataclass(kind: Any, group: Any) -> type | None:
  """Returns the spec of a group; for `model`, the spec of its family."""
  if kind is ModelBase:
    return family(group.get("name"))
  kinds = [one for one in _members(kind) if dataclasses.is_dataclass(one)]
  return kinds[0] if kinds else None


def _members(kind: Any) -> tuple[Any, ...]:
  if typing.get_origin(kind) in (typing.Union, types.UnionType):
    return typing.get_args(kind)
  return (kind,)


def _enter(parent: Any, name: str, kind: Any, where: str) -> Any:
  """Returns a group of the config, after making it mutable.

  Args:
    parent: group or list that contains the group.
    name: name of the group, or its index in a list.
    kind: type of the group.
    where: path of the group, for messages.
  """
  if isinstance(parent, (list, tuple)):
    return parent[int(name)]
  value = parent.get(name)
  if _item(kind):
    # Copies, because the config file may use an entry elsewhere too.
    entries = value or ()
    parent[name] = [ConfigDict(_settings_of(entry)) for entry in entries]
    return parent[name]
  if dataclasses.is_dataclass(value):
    parent[name] = ConfigDict(dataclasses.asdict(value))
  elif value is None:
    parent[name] = ConfigDict()
  elif isinstance(value, (int, float)) and Schedule in _members(kind):
    # A number is a constant schedule.
    parent[name] = ConfigDict({"first": value, "last": value})
  elif not hasattr(value, "items"):
    raise SpecError(f"--config.{where} is {value!r}, a value, not a group")
  return parent[name]


def _settings_of(entry: Any) -> Mapping[str, Any]:
  if dataclasses.is_dataclass(entry):
    return dataclasses.asdict(entry)
  return dict(entry.items())


def _parse(kind: Any, text: str, where: str) -> Any:
  """Parses a value of a type.

  Args:
    kind: the type.
    text: the value as text.
    where: the flag, for messages.

  Raises:
    SpecError: the text is not a value of the type.
  """
  if kind is _ANYTHING:
    return _literal(text)
  members = _members(kind)
  if type(None) in members and text.lower() in ("none", "null"):
    return None
  members = [one for one in members if one is not type(None)]
  flag = f"{where}={text}"
  if Schedule in members:
    return _schedule(text, flag)
  (member, *others) = members
  if others or dataclasses.is_dataclass(member):
    value = _literal(text)
    if not isinstance(value, dict):
      raise SpecError(
        f"{flag}: this is a group; set its fields, {where}.NAME=VALUE"
      )
    return value
  if typing.get_origin(member) is tuple:
    return tuple(_items(typing.get_args(member)[0], text, where))
  return _scalar(member, text, flag)


def _scalar(kind: Any, text: str, flag: str) -> Any:
  if typing.get_origin(kind) is typing.Literal:
    # The spec itself refuses a text that is not a choice.
    choices = {str(one): one for one in typing.get_args(kind)}
    return choices.get(text, text)
  if kind is bool:
    if text.lower() not in _WORDS:
      raise SpecError(f"{flag} must be true or false")
    return _WORDS[text.lower()]
  if kind is int:
    if not _WHOLE.fullmatch(text.strip()):
      raise SpecError(f"{flag} must be a whole number")
    return int(text)
  if kind is float:
    return _number(text, flag)
  return text


def _number(text: str, flag: str) -> float:
  try:
    if "_" in text:
      raise ValueError(text)
    return float(text)
  except ValueError:
    raise SpecError(f"{flag} must be a number") from None


def _schedule(text: str, flag: str) -> Any:
  value = _literal(text)
  return value if isinstance(value, dict) else _number(text, flag)


def _items(kind: Any, text: str, where: str) -> Iterator[Any]:
  """Yields the items of a list, written a,b or (a, b) or ['a', 'b']."""
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
  """Returns the value of a Python literal, or the text if it is not one."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
