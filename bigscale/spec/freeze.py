"""Converts a config to a frozen spec, and a spec to and from JSON.

Untyped values become typed values only here. Errors about unknown keys, missing
keys and values of the wrong type name the key, the value and the remedy.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from bigscale.spec.base import Schedule, SpecError, require
from bigscale.spec.model import ModelBase, family
from bigscale.spec.run import RunSpec

# JSON and float64 represent integers exactly up to this value.
MAX_INTEGER = 2**53


def from_config(config: Mapping[str, Any]) -> RunSpec:
  """Converts a config to a checked, frozen spec.

  Args:
    config: an `ml_collections.ConfigDict` or any nested mapping with the fields
      of `RunSpec`. `model.name` chooses the family of models.

  Returns:
    The spec of the run.

  Raises:
    SpecError: a key is unknown or missing, or a value breaks a rule.
  """
  return _freeze(RunSpec, config, "config")


def to_json(spec: Any) -> dict[str, Any]:
  """Returns the spec as nested dictionaries of JSON values."""
  return dataclasses.asdict(spec)


def from_json(tree: Mapping[str, Any]) -> RunSpec:
  """Returns the spec that `to_json` serialized."""
  return from_config(tree)


def _freeze(kind: type, value: Any, path: str) -> Any:
  """Builds a dataclass of type `kind` from a mapping."""
  if not isinstance(value, Mapping) and not hasattr(value, "items"):
    raise SpecError(f"{path}={value!r} must be a group of settings")
  given = dict(value.items())
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for key in given:
    if key not in fields:
      close = difflib.get_close_matches(str(key), fields, n=1)
      hint = f"did you mean {close[0]!r}?" if close else "remove it."
      raise SpecError(
        f"unknown key {path}.{key}: {kind.__name__} has "
        f"{', '.join(sorted(fields))}; {hint}"
      )
  hints = typing.get_type_hints(kind)
  frozen = {}
  for name, field in fields.items():
    if name in given:
      frozen[name] = _coerce(hints[name], given[name], f"{path}.{name}")
    elif (
      field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
    ):
      raise SpecError(f"{path}.{name} is missing; set it in the config")
  return kind(**frozen)


def _coerce(kind: Any, value: Any, path: str) -> Any:
  """Checks `value` against a field's type `kind` and converts it if needed."""
  origin = typing.get_origin(kind)
  if origin in (typing.Union, types.UnionType):
    return _coerce_union(typing.get_args(kind), value, path)
  if origin is typing.Literal:
    choices = typing.get_args(kind)
    if value not in choices:
      raise SpecError(
        f"{path}={value!r} is not one of {', '.join(map(repr, choices))}"
      )
    return value
  if origin is tuple:
    if not isinstance(value, (list, tuple)):
      raise SpecError(f"{path}={value!r} must be a list, like (64, 32)")
    item = typing.get_args(kind)[0]
    return tuple(
      _coerce(item, entry, f"{path}[{i}]") for i, entry in enumerate(value)
    )
  if kind is Schedule and isinstance(value, (int, float)):
    constant = _coerce(float, value, path)
    return Schedule(first=constant, last=constant)
  if kind is ModelBase:
    return _coerce_model(value, path)
  if dataclasses.is_dataclass(kind):
    return value if isinstance(value, kind) else _freeze(kind, value, path)
  if kind is float and type(value) is int:
    value = _as_float(value)
  if type(value) is float and kind is float:
    if not math.isfinite(value):
      raise SpecError(f"{path}={value!r} must be a finite number")
    return value
  if type(value) is not kind:
    raise SpecError(
      f"{path}={value!r} is {_article(type(value))}; it must be "
      f"{_article(kind)}"
    )
  if kind is int and abs(value) > MAX_INTEGER:
    raise SpecError(
      f"{path} must be a whole number of at most {MAX_INTEGER:,}; it has "
      f"{value.bit_length()} bits"
    )
  return value


def _as_float(value: int) -> float:
  try:
    return float(value)
  except OverflowError:
    return math.inf if value > 0 else -math.inf


def _coerce_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
  """Coerces the value of an optional field."""
  if value is None and type(None) in kinds:
    return None
  (kind,) = (kind for kind in kinds if kind is not type(None))
  return _coerce(kind, value, path)


def _coerce_model(value: Any, path: str) -> ModelBase:
  """Coerces a model to the family that its `name` chooses."""
  if isinstance(value, ModelBase):
    return value
  if not hasattr(value, "items"):
    raise SpecError(f"{path}={value!r} must be a group of settings")
  given = dict(value.items())
  require("name" in given, f"{path}.name is missing; set it in the config")
  return _freeze(family(given["name"]), value, path)


def _article(kind: type) -> str:
  names = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "True or False",
    type(None): "None",
  }
  return names.get(kind, f"a {kind.__name__}")
