"""A sweep: one run's settings, and what is varied about them.

A config file in `configs/sweeps/` gives

    {"base": settings of a run, "blocks": {NAME: {AXIS: values, ...}, ...}}

A block is all combinations of its axes. An axis is the path of a setting with
a list of values, as `"seed": [0, 1]`, or a name of its own with values that
set several at once: `"width": {"32": {"model.g_width": 32, "optim.g_lr":
1e-4}, ...}`. Blocks may overlap: a run that is in two is made once.
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
    name: its id: a function of its settings along the axes, fit for a folder.
    blocks: that it is in.
    values: along each axis, as text.
    spec: resolved.
    folder: its name in the sweep's folder of runs; "" stands for `name`.
  """

  name: str
  blocks: tuple[str, ...]
  values: Mapping[str, str]
  spec: RunSpec
  folder: str = ""


def expand(config: Mapping[str, Any]) -> list[SweepRun]:
  """All runs of a sweep, block by block, in the order of their axes.

  Args:
    config: of the form in the module's docstring.

  Raises:
    SpecError: it has another form, an axis names no setting, or a run breaks a
      rule; the message names the run.
  """
  config = _plain(config)
  require(
    isinstance(config, dict) and sorted(config) == sorted(_KEYS),
    f"a sweep has {' and '.join(_KEYS)}, but this config has "
    f"{', '.join(map(str, config)) or 'nothing'}; see `bigscale.scaling.sweep`",
  )
  found: dict[str, SweepRun] = {}
  for block, axes in config["blocks"].items():
    for run in _of_block(config["base"], block, axes):
      # Equal settings are one run, whatever axes led to them.
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
      f"two different runs are both named {name}; give the axes values that "
      "read differently, or the blocks axes of other names",
    )
  require(bool(runs), "the sweep has no run; give a block with an axis")
  return runs


def _of_block(
  base: Mapping[str, Any], block: str, axes: Mapping[str, Any]
) -> Iterator[SweepRun]:
  require(
    isinstance(axes, dict) and axes and all(axes.values()),
    f"block {block!r} must name axes, each with a value or more",
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
  """Label and settings of every value."""
  if isinstance(values, dict):
    return [(str(name), overrides) for name, overrides in values.items()]
  require(
    isinstance(values, (list, tuple)),
    f"axis {axis!r} is {values!r}; give a list of values, or a mapping from "
    "names to settings",
  )
  return [(label(value), {axis: value}) for value in values]


def label(value: Any) -> str:
  """Returns a value of a setting as names of runs and tables write it."""
  if isinstance(value, (list, tuple)):
    return "+".join(map(label, value))
  return f"{value:g}" if isinstance(value, float) else str(value)


def _set(settings: dict[str, Any], path: str, value: Any, where: str) -> None:
  """Sets `a.b.c`; what lies on the way must be there."""
  *groups, last = path.split(".")
  for group in groups:
    below = settings.get(group)
    require(
      isinstance(below, dict),
      f"{where} sets {path!r}, but the base has no group {group!r}; write it "
      "into the base",
    )
    settings = below
  settings[last] = value


def _plain(value: Any) -> Any:
  """ConfigDicts as dictionaries, all the way down."""
  if hasattr(value, "items"):
    return {key: _plain(item) for key, item in value.items()}
  return value
