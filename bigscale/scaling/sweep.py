"""Expands a sweep config into the specs of its runs.

A config file in `configs/sweeps/` returns

    {"base": settings of a run, "blocks": {NAME: {AXIS: values, ...}, ...}}

A block contains all combinations of its axes. An axis is the path of a setting
with a list of values, such as `"seed": [0, 1]`, or a new name with values that
change several settings: `"width": {"32": {"model.g_width": 32, "optim.g_lr":
1e-4}, ...}`. Blocks may overlap; a run in two blocks is trained once.
"""

import copy
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bigscale.spec import RunSpec, SpecError, from_config, require, to_json

_KEYS = ("base", "blocks")
_UNSAFE = re.compile(r"[^\w.+-]+")


class SweepRun(NamedTuple):
  """One run of a sweep.

  Attributes:
    name: id derived from the axis values, valid as a folder name.
    blocks: blocks that contain the run.
    values: text of the run's value on each axis.
    spec: spec of the run.
    folder: name of the run's folder within the sweep; "" means `name`.
  """

  name: str
  blocks: tuple[str, ...]
  values: Mapping[str, str]
  spec: RunSpec
  folder: str = ""


def expand(config: Mapping[str, Any]) -> list[SweepRun]:
  """Returns all runs of a sweep, block by block, in the order of the axes.

  Args:
    config: sweep config; see the module docstring.

  Raises:
    SpecError: the config has another form, an axis names an unknown setting, or
      the spec of a run is invalid; the message names the run.
  """
  config = _plain(config)
  require(
    isinstance(config, dict) and sorted(config) == sorted(_KEYS),
    f"a sweep config needs the keys {' and '.join(_KEYS)}, but this one has "
    f"{', '.join(map(str, config)) or 'none'}; see `bigscale.scaling.sweep`",
  )
  found: dict[str, SweepRun] = {}
  for block, axes in config["blocks"].items():
    for run in _of_block(config["base"], block, axes):
      # Equal settings are one run, even if they come from different axes.
      key = json.dumps(to_json(run.spec), sort_keys=True)
      if key in found:
        known = found[key]
        run = known._replace(blocks=(*known.blocks, block))
      found[key] = run
  runs = list(found.values())
  names = [run.name for run in runs]
  for name in names:
    require(
      names.count(name) == 1,
      f"two different runs are both named {name}; rename the axes or values of "
      "one block",
    )
  require(bool(runs), "the sweep has no runs; add a block with an axis")
  return runs


def _of_block(
  base: Mapping[str, Any], block: str, axes: Mapping[str, Any]
) -> Iterator[SweepRun]:
  require(
    isinstance(axes, dict) and axes and all(axes.values()),
    f"block {block!r} must have axes, each with at least one value",
  )
  choices = [_choices(axis, values) for axis, values in axes.items()]
  for combination in itertools.product(*choices):
    values = dict(zip(axes, (named for named, _ in combination), strict=True))
    name = "_".join(
      f"{axis.rpartition('.')[2]}-{value}" for axis, value in values.items()
    )
    name = _UNSAFE.sub("-", name)
    settings = copy.deepcopy(dict(base))
    for _, overrides in combination:
      for path, value in overrides.items():
        _set(settings, path, value, f"block {block!r}")
    try:
      spec = from_config(settings)
    except SpecError as error:
      raise SpecError(f"run {name} of block {block!r}: {error}") from error
    yield SweepRun(name, (block,), values, spec)


def _choices(axis: str, values: Any) -> list[tuple[str, dict[str, Any]]]:
  """Returns the label and the settings of each value of an axis."""
  if isinstance(values, dict):
    return [(str(name), overrides) for name, overrides in values.items()]
  require(
    isinstance(values, (list, tuple)),
    f"axis {axis!r} is {values!r}, but must be a list of values or a mapping "
    "from names to settings",
  )
  return [(label(value), {axis: value}) for value in values]


def label(value: Any) -> str:
  """Returns the text of a value for run names and tables."""
  if isinstance(value, (list, tuple)):
    return "+".join(map(label, value))
  return f"{value:g}" if isinstance(value, float) else str(value)


def _set(settings: dict[str, Any], path: str, value: Any, where: str) -> None:
  """Sets the setting at `path`, such as `a.b.c`; its groups must exist."""
  *groups, last = path.split(".")
  for group in groups:
    below = settings.get(group)
    require(
      isinstance(below, dict),
      f"{where} sets {path!r}, but the base has no group {group!r}; add it to "
      "the base",
    )
    settings = below
  settings[last] = value


def _plain(value: Any) -> Any:
  """Converts ConfigDicts to dictionaries, recursively."""
  if hasattr(value, "items"):
    return {key: _plain(item) for key, item in value.items()}
  return value
