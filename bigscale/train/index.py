"""The index of a checkpoint's arrays, read before the arrays are.

Orbax opens every array at once. Where the index is damaged (OCDBT: the files
`state/manifest.ocdbt` and `state/d/*`), each of them fails, most in threads
that print a traceback after nobody waits for them any more: hundreds of pages
around the one line that says what is wrong.
"""

import pathlib

import tensorstore

from bigscale.train import sealed


def check(directory: pathlib.Path) -> None:
  """Reads the index of the arrays of a step.

  Args:
    directory: of the step.

  Raises:
    sealed.SealError: it is damaged.
  """
  base = directory.absolute() / "state"
  if not (base / "manifest.ocdbt").exists():
    # Of that Orbax complains once.
    return
  spec = {"driver": "ocdbt", "base": f"{base.as_uri()}/"}
  try:
    tensorstore.KvStore.open(spec).result().list().result()
  except ValueError as error:
    said = str(error).partition("\n")[0][:200]
    raise sealed.SealError(
      f"the index of its arrays cannot be read ({said})"
    ) from error
