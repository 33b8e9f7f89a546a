"""Lists the fields of a spec: path, type, default, value and meaning.

The meaning of a field is its entry in the `Attributes:` section of the class
docstring, and is written nowhere else.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from bigscale.spec.base import Schedule, SpecError

# The default of a field that every config must set.
REQUIRED = dataclasses.MISSING


class Setting(NamedTuple):
  """One field of a spec.

  Attributes:
    path: dotted path from the root, such as `optim.beta1` or
      `data.mixture.0.share`.
    type: the type in words, such as `int` or `one of 'skip', 'error'`.
    default: the default of the class, or `REQUIRED`.
    value: the value in the described spec. If a class is described, the
      default.
    meaning: the entry of the docstring, on one line.
  """

  path: str
  type: str
  default: Any
  value: Any
  meaning: str


def describe(
  spec: Any, prefix: str = "", *, missing: str | None = None
) -> Iterator[Setting]:
  """Yields the fields of a spec and of the specs inside it, in order.

  A field that contains a spec yields the fields of that spec. A list of specs
  yields the fields of each entry, with the entry's index in the path. An empty
  list counts as one value, and so does a `Schedule`.

  Args:
    spec: a spec, or a spec class to describe with its defaults. In a class,
      `model` yields the fields of `ModelBase`, and a list of specs yields
      itself and the fields of one entry, with `N` as its index.
    prefix: path of the spec, "" for the root.
    missing: meaning of a field without an entry in the docstring. None raises.

  Raises:
    SpecError: a field has no entry in the docstring and `missing` is None. The
      message names the file, the class and the field.
  """
  kind = spec if isinstance(spec, type) else type(spec)
  hints = typing.get_type_hints(kind)
  for field in dataclasses.fields(kind):
    path = f"{prefix}.{field.name}" if prefix else field.name
    hint, default = hints[field.name], _default(field)
    value = default if spec is kind else getattr(spec, field.name)
    inner = _inner_specs(hint, None if spec is kind else value)
    if not inner or "N" in inner:
      meaning = meaning_of(kind, field.name, missing=missing)
      yield Setting(path, type_in_words(hint), default, value, meaning)
    for index, one in inner.items():
      yield from describe(
        one, f"{path}.{index}" if index else path, missing=missing
      )


def meaning_of(kind: type, field: str, *, missing: str | None = None) -> str:
  """Returns the meaning of a field, from its class or a base class.

  Args:
    kind: the spec class.
    field: name of the field.
    missing: returned if no docstring has an entry. None raises.

  Raises:
    SpecError: no docstring has an entry and `missing` is None.
  """
  for base in kind.__mro__:
    if (meaning := attributes_of(base).get(field)) is not None:
      return meaning
  if missing is not None:
    return missing
  owner = next(b for b in kind.__mro__ if field in vars(b)["__annotations__"])
  raise SpecError(
    f"{_location(owner)}: the docstring of {owner.__name__} does not explain "
    f"{field}; add an entry `{field}: ...` to its Attributes section"
  )


def attributes_of(kind: type) -> dict[str, str]:
  """Returns the entries of the `Attributes:` section of a class's docstring.

  Entries of base classes are not included. The lines of an entry are joined.
  """
  lines = inspect.cleandoc(vars(kind).get("__doc__") or "").splitlines()
  if "Attributes:" not in lines:
    return {}
  entries: dict[str, str] = {}
  name, indent = "", None
  for line in lines[lines.index("Attributes:") + 1 :]:
    depth = len(line) - len(line.lstrip())
    if line.strip() and not depth:
      break
    indent = depth if indent is None else indent
    started = re.match(r"\s*(\w+):\s*(.*)", line)
    if started and depth == indent:
      name = started[1]
      entries[name] = started[2]
    elif line.strip() and name:
      entries[name] = f"{entries[name]} {line.strip()}"
  return entries


def summary_of(kind: type) -> str:
  """Returns the first line of a class's docstring, "" without a docstring."""
  lines = inspect.cleandoc(vars(kind).get("__doc__") or "").splitlines()
  return lines[0] if lines else ""


def type_in_words(kind: Any) -> str:
  """Returns a field's type in words, such as `list of int`."""
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin in (typing.Union, types.UnionType):
    names = [type_in_words(one) for one in arguments if one is not type(None)]
    return " or ".join([*names, "None"])
  if origin is typing.Literal:
    choices = ", ".join(map(repr, arguments))
    return f"one of {choices}" if len(arguments) > 1 else choices
  if origin is tuple:
    return f"list of {type_in_words(arguments[0])}"
  if kind is Schedule:
    return "float or schedule"
  return kind.__name__


def _default(field: dataclasses.Field) -> Any:
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default


def _inner_specs(hint: Any, value: Any) -> dict[str, Any]:
  """Returns the specs in a field by index, "" for a field that is one spec.

  Args:
    hint: type of the field.
    value: value of the field. None returns spec classes, with the index `N`.
  """
  if typing.get_origin(hint) is tuple:
    item = typing.get_args(hint)[0]
    if not dataclasses.is_dataclass(item):
      return {}
    if value is None:
      return {"N": item}
    return {f"{i}": entry for i, entry in enumerate(value)}
  one = hint if value is None else value
  if dataclasses.is_dataclass(one) and Schedule not in (one, type(one)):
    return {"": one}
  return {}


def _location(kind: type) -> str:
  """Returns FILE:LINE of a class, or its module if it has no file."""
  try:
    line = inspect.getsourcelines(kind)[1]
    return f"{inspect.getsourcefile(kind)}:{line}"
  except (OSError, TypeError):
    return kind.__module__
