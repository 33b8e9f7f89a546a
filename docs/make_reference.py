"""Writes docs/reference/config.md from the docstrings of the specs.

python -m docs.make_reference
"""

import importlib
import pathlib
from collections.abc import Iterator
from typing import Any

from bigscale.spec import RunSpec
from bigscale.spec.base import Schedule
from bigscale.spec.describe import REQUIRED, Setting, describe, summary_of
from bigscale.spec.model import ModelBase

PAGE = pathlib.Path(__file__).parent / "reference" / "config.md"
FAMILIES = ("r3gan", "biggan", "biggan_deep", "stripped_stylegan2")

_HEADER = """\
# Configuration fields

<!-- Written by `python -m docs.make_reference` from the specs' docstrings. -->

Every field of a config, with its type, its default and its meaning. A field
without a default must be set. `bigscale config --config=NAME` prints the values
of one config in the same form, and `--diff` only those that differ from the
defaults.

A *schedule* is a number, or `{"first": a, "last": b, "kimg": n}`, which moves
from `a` to `b` over the first `n` thousand images.
"""


def page() -> str:
  """Returns the page.

  Raises:
    SpecError: a field has no entry in its docstring. The message names the file
      and the line.
  """
  groups: dict[str, list[Setting]] = {}
  for setting in describe(RunSpec):
    groups.setdefault(_group(setting.path), []).append(setting)
  lines = [_HEADER]
  for group, settings in groups.items():
    title = f"`{group}`" if group else "The run"
    lines += [f"## {title}", "", *_table(settings), ""]
    if group == "model":
      lines += _families()
  return "\n".join(lines).rstrip() + "\n"


def _families() -> Iterator[str]:
  """Yields the sections of the shipped model families."""
  common = {setting.path for setting in describe(ModelBase, "model")}
  for name in FAMILIES:
    kind = importlib.import_module(f"bigscale.models.{name}").Family
    own = [s for s in describe(kind, "model") if s.path not in common]
    yield from (f'### `model` with `"name": "{name}"`', "", summary_of(kind))
    yield from ("", *_table(own), "")


def _group(path: str) -> str:
  """Returns the dotted path of the spec that holds a field."""
  return path.rpartition(".")[0]


def _table(settings: list[Setting]) -> Iterator[str]:
  yield "| field | type | default | meaning |"
  yield "|---|---|---|---|"
  for setting in settings:
    default = "" if setting.default is REQUIRED else f"`{_value(setting)}`"
    cells = (f"`{setting.path}`", setting.type, default, setting.meaning)
    yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(setting: Setting) -> str:
  value: Any = setting.default
  if isinstance(value, Schedule):
    return repr(value.first if value.first == value.last else value)
  return repr(value)


if __name__ == "__main__":
  PAGE.write_text(page())
