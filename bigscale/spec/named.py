"""Loads extensions by name.

Extensions of bigscale (a family of models, a loss, a score, a feature network)
are chosen in a config by name. A short name, such as `biggan`, is built in. A
name with a colon, such as `my_package.my_gan:Toy`, has the form
`package.module:Name` and is imported from the user's module, so no file of
bigscale has to change.
"""

import importlib
from typing import Any

from bigscale.spec.base import SpecError


def is_path(name: str) -> bool:
  """Returns whether a name has the form `package.module:Name`."""
  return ":" in name


def load(path: str, what: str) -> Any:
  """Imports the object that `package.module:Name` names.

  Args:
    path: the name of the object.
    what: the kind of object, for error messages, such as "a loss".

  Raises:
    SpecError: the module cannot be imported, or does not define the name.
  """
  module_name, _, name = path.partition(":")
  if not name or not all(part.isidentifier() for part in _parts(path)):
    raise SpecError(
      f"{path!r} does not name {what}; write package.module:Name, for example "
      "my_package.my_module:Thing"
    )
  try:
    module = importlib.import_module(module_name)
  except SpecError:
    raise  # The module defines an invalid extension; keep its message.
  except (Exception, SystemExit) as error:
    raise SpecError(
      f"cannot load {what} from {path!r}: importing {module_name!r} failed "
      f"with {type(error).__name__}: {error}; {_remedy(module_name, error)}"
    ) from error
  if not hasattr(module, name):
    public = [key for key in vars(module) if not key.startswith("_")]
    raise SpecError(
      f"cannot load {what} from {path!r}: {module_name!r} does not define "
      f"{name!r}; it defines {', '.join(public) or 'nothing'}"
    )
  return getattr(module, name)


def _remedy(module_name: str, error: BaseException) -> str:
  """Returns what to do about a module that cannot be imported."""
  if not isinstance(error, ModuleNotFoundError):
    return "fix the module"
  missing = error.name or ""
  if module_name == missing or module_name.startswith(f"{missing}."):
    return "install its package, or add its folder to PYTHONPATH"
  return f"install {missing}, which the module needs"


def _parts(path: str) -> list[str]:
  module_name, _, name = path.partition(":")
  return [*module_name.split("."), name]
