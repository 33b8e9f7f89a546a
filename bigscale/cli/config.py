r"""Print a config with the meaning of every field.

Example:
  bigscale config --config=fashion_r3gan

Prints each field as `NAME = VALUE` under its meaning. Every NAME can be set
with --config.NAME=VALUE. A field whose value is not its default also shows the
default.

Show what an override changes, and what the config file itself sets:

  bigscale config --config=biggan:128 --config.optim.g_lr=1e-4 --diff
  bigscale config --config=biggan:128 --diff
"""

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigscale.cli.config_flags import ConfigFlags, spec_of
from bigscale.spec import RunSpec, Schedule, SpecError
from bigscale.spec.describe import REQUIRED, Setting, describe, summary_of

FLAGS = ConfigFlags()
FLAGS.define_config("the config to print")
FLAGS.bool(
  "diff",
  False,
  "print only the fields that --config.NAME=VALUE changes in the config file. "
  "Without such a flag, print only the fields that the config file sets to "
  "something other than the default",
)
FLAGS.bool(
  "json",
  False,
  "print a JSON list of objects with path, type, default (absent if the field "
  "is required), config_file (only if --diff compares with it), value and "
  "meaning",
)

_WIDTH = 79
_UNDOCUMENTED = "(no entry in the docstring of its class)"


def run() -> int:
  """Prints the config."""
  file = None
  if FLAGS.diff and FLAGS.config_set:
    file = _values_in_file()
  spec = spec_of(FLAGS)
  settings = list(describe(spec, missing=_UNDOCUMENTED))
  if file is not None:
    settings = [s for s in settings if file.get(s.path, REQUIRED) != s.value]
  elif FLAGS.diff:
    settings = [s for s in settings if s.default != s.value]
  if FLAGS.json:
    print(json.dumps([_to_json(s, file) for s in settings], indent=2))
  else:
    text = "\n".join(_lines(spec, settings, file))
    print(text.strip() or "no differences")
  return 0


def _values_in_file() -> dict[str, Any]:
  """Returns the values of the config file without the overrides, by path.

  Raises:
    SpecError: the config file breaks a rule without the overrides.
  """
  try:
    spec = spec_of(FLAGS, overridden=False)
  except SpecError as error:
    raise SpecError(
      f"--diff compares with the config file, which is not valid alone: {error}"
    ) from error
  return {s.path: s.value for s in describe(spec, missing=_UNDOCUMENTED)}


def _lines(
  spec: RunSpec, settings: Sequence[Setting], file: Mapping[str, Any] | None
) -> Iterator[str]:
  """Yields the printed lines: a heading per section, then its fields."""
  section = ""
  for setting in settings:
    if (name := _section(setting.path)) != section:
      section = name
      group = type(getattr(spec, name))
      yield from ("", f"# ==== {name}: {summary_of(group)}")
    yield ""
    yield from _wrapped(setting.meaning)
    line = f"{setting.path} = {_shown(setting.value)}"
    if file is not None:
      before = file.get(setting.path, REQUIRED)
      other = "not set" if before is REQUIRED else _shown(before)
      line += f"  # config file: {other}"
    elif setting.default not in (REQUIRED, setting.value):
      line += f"  # default: {_shown(setting.default)}"
    yield line


def _section(path: str) -> str:
  """Returns the group of a field, "" for a field of the run itself."""
  return path.partition(".")[0] if "." in path else ""


def _wrapped(text: str) -> list[str]:
  return textwrap.wrap(
    text,
    _WIDTH,
    initial_indent="# ",
    subsequent_indent="# ",
    break_long_words=False,
    break_on_hyphens=False,
  )


def _shown(value: Any) -> str:
  """Returns a value as --config.NAME=VALUE accepts it."""
  if isinstance(value, Schedule):
    constant = value.first == value.last and not value.kimg
    return f"{value.first if constant else dataclasses.asdict(value)}"
  return repr(value)


def _to_json(
  setting: Setting, file: Mapping[str, Any] | None
) -> dict[str, Any]:
  row = {"path": setting.path, "type": setting.type}
  if setting.default is not REQUIRED:
    row["default"] = setting.default
  if file is not None and setting.path in file:
    row["config_file"] = file[setting.path]
  row |= {"value": setting.value, "meaning": setting.meaning}
  return {key: _plain(value) for key, value in row.items()}


def _plain(value: Any) -> Any:
  """Returns a value that JSON can represent."""
  return dataclasses.asdict(value) if isinstance(value, Schedule) else value
