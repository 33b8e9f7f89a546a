"""StyleGAN's `dataset.json`: labels of images by path."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigscale.data.manifest import DataError


def check(table: Any, where: str) -> dict[str, int] | None:
  """Returns the labels of a table by path, or None if it has no labels.

  Args:
    table: parsed content of the file.
    where: path of the file, for messages.

  Raises:
    DataError: the table has another layout, or assigns two labels to an image.
  """
  rule = (
    f"{where} must be "
    '{"labels": [["path/of/image.png", 3], ...]} with numbers from 0, or '
    '{"labels": null}'
  )
  if not isinstance(table, dict) or "labels" not in table:
    raise DataError(f"{rule}; it has no 'labels': create it again")
  if table["labels"] is None:
    return None
  labels: dict[str, int] = {}
  for row in table["labels"] or ({},):
    match row:
      case [str(path), int(label)] if _is_label(label):
        name = plain_name(path)
        if labels.setdefault(name, label) != label:
          raise DataError(
            f"{where} assigns two labels to {name}, {labels[name]} and "
            f"{label}; keep one"
          )
      case _:
        raise DataError(f"{rule}; it has {row!r}: create it again")
  return labels


def _is_label(value: int) -> bool:
  return type(value) is int and 0 <= value < 2**31


def plain_name(path: str) -> str:
  """Returns a path in the form that a folder's listing uses."""
  return path.replace("\\", "/").removeprefix("./")


def look_up(
  table: Mapping[str, int], names: Sequence[str], where: str
) -> list[int]:
  """Returns the label of each image.

  Args:
    table: labels by path.
    names: paths of the images.
    where: path of the table, for messages.

  Raises:
    DataError: the table lacks an image.
  """
  missing = [name for name in names if name not in table]
  if missing:
    others = f", nor for {len(missing) - 1:,} others" * (len(missing) > 1)
    raise DataError(
      f"{where} has no label for {missing[0]}{others}; add one, or remove the "
      "image"
    )
  return [table[name] for name in names]


def check_classes(labels: Sequence[int], classes: int, where: str) -> None:
  """Raises `DataError` if a held-out label exceeds the train split's classes.

  Args:
    labels: labels of the held-out split.
    classes: number of classes of the train split.
    where: path of the table, for messages.
  """
  if max(labels) >= classes:
    raise DataError(
      f"{where} assigns label {max(labels)} to a held-out image, but the "
      f"train split has {classes} classes; use the same classes in both splits"
    )
