"""Extensions by name: `biggan` is ours, `my_package.my_gan:Toy` a user's.

Whatever can be added to bigscale (a family of models, a loss, a score, a
network of features) is chosen in a config by name. A short name is one of
ours. A name with a colon is `package.module:Name`: the module is imported and
the name looked up in it, so that nothing of ours has to be edited.
"""

import importlib
from typing import Any

from bigscale.spec.base import SpecError


def is_path(name: str) -> bool:
  """Whether a name is `package.module:Name` rather than one of ours."""
  return ":" in name


def load(path: str, what: str) -> Any:
  """Imports the object that `package.module:Name` names.

  Args:
    path: of the object.
    what: it is to be, for messages, as "a loss".

  Raises:
    SpecError: the module cannot be imported, or has no such name.
  """
  module_name, _, name = path.partition(":")
  if not name or not all(part.isidentifier() for part in _parts(path)):
    raise SpecError(
      f"{path!r} does not name {what}; write package.module:Name, as "
      "my_package.my_module:Thing"
    )
  try:
    module = importlib.import_module(module_name)
  except SpecError:
    raise  # The module's own rows say what is wrong with them.
  except (Exception, SystemExit) as error:
    raise SpecError(
      f"{path!r} is to be {what}, and importing {module_name!r} failed with "
      f"{type(error).__name__}: {error}; {_remedy(module_name, error)}"
    ) from error
  if not hasattr(module, name):
    public = [key for key in vars(module) if not key.startswith("_")]
    raise SpecError(
      f"{path!r} is to be {what}, and {module_name!r} has no {name!r}; it has "
      f"{', '.join(public) or 'nothing'}"
    )
  return getattr(module, name)


def _remedy(module_name: str, error: BaseException) -> str:
  """What to do about a module that could not be imported."""
  if not isinstance(error, ModuleNotFoundError):
    return "mend the module"
  missing = error.name or ""
  if module_name == missing or module_name.startswith(f"{missing}."):
    return "install its package, or add its folder to PYTHONPATH"
  return f"install {missing}, which the module needs"


def _parts(path: str) -> list[str]:
  module_name, _, name = path.partition(":")
  return [*module_name.split("."), name]
