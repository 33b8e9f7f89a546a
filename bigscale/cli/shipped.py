"""The configs that come with the package, which are found by name.

`--config=fashion_r3gan` is the same config wherever the command starts. A file
is named by its path, as `--config=my_config.py`; a file at the path that was
given comes before a shipped config of that name.
"""

import difflib
import os
import pathlib

import bigscale
from bigscale.spec import SpecError, require


def names() -> list[str]:
  """Returns the names of all shipped configs, as "biggan" or "sweeps/NAME"."""
  folder = _folder()
  return sorted(
    path.relative_to(folder).with_suffix("").as_posix()
    for path in folder.rglob("*.py")
    if path.name != "__init__.py"
  )


def locate(config: str) -> str:
  """Returns the value of --config with a path in place of a name.

  Args:
    config: FILE, FILE:ARG, NAME or NAME:ARG.

  Raises:
    SpecError: it is neither a file nor the name of a shipped config.
  """
  path, colon, argument = config.partition(":")
  require(path, "it is empty; give a file or the name of a shipped config")
  if os.path.isfile(path):
    return config
  known = names()
  if path in known:
    return f"{_folder() / path}.py{colon}{argument}"
  # As in a checkout.
  name = path.removeprefix("./").removeprefix("configs/").removesuffix(".py")
  if name in known:
    hint = f"the shipped config of that name is --config={name}"
  elif close := difflib.get_close_matches(name, known, n=1):
    hint = f"did you mean --config={close[0]}?"
  else:
    hint = "give a file's path or one of the names"
  raise SpecError(
    f"{path!r} is neither a file nor the name of a shipped config; {hint} "
    f"(shipped: {', '.join(known)})"
  )


def _folder() -> pathlib.Path:
  # In a checkout it is a link to the folder configs/ at the top.
  return pathlib.Path(bigscale.__file__).parent.joinpath("configs").resolve()
