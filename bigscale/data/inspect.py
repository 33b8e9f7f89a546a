"""Describes a data set: as JSON, as text and as a sheet of images."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigscale.data import manifest as manifests
from bigscale.data import notes, places, recipe
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import DataError, Split
from bigscale.data.shapes import survey
from bigscale.data.shapes import text as text_of
from bigscale.data.shown import shown
from bigscale.data.sources import BadRecordError, Source

# Up to this size all labels of a source are read; above, those of a sample.
_MAX_ALL_LABELS = 200_000
_SAMPLED_LABELS = 2_000
_DECODED_IMAGES = 64
_SHOWN_CLASSES = 20
_SHOWN_SHAPES = 8
_BAR = 30
_CELL = (64, 256)  # Smallest and largest side of a cell of the sheet, px.
_GAP = 4


def inspect(path: str) -> str:
  """Describes a data set as text; see `facts` for arguments and errors."""
  return text(facts(path))


def facts(path: str) -> dict[str, Any]:
  """Describes a data set as JSON values.

  Args:
    path: an input as in `open_inputs`.

  Returns:
    A dictionary with `path`, `bytes` (on disk, or None), `notes` (sentences
    about files that are skipped or missing) and `splits`. Sharded sets also
    have `manifest`. Each split has:
      `records`, `identity`, `padding`, `files` and `bytes`.
      `image_shapes`: number of images of each shape, most common first.
      `headers_read`: number of images in `image_shapes`: all, or a sample of
        a large set.
      `shape_examples`: a file of each shape.
      `unreadable_headers`: number of headers that could not be read.
      `decoded`: number of images that were decoded, at most 64.
      `unreadable`: number of these that could not be decoded.
      `class_names`.
      `label_counts`: images per class; None if counting would take too long.
      `rejects` and `duplicates`: records that the build removed, or None.

  Raises:
    DataError: the data set does not exist, or is invalid.
  """
  splits = open_inputs(path)
  manifest = None
  if places.has_file(path, manifests.FILE_NAME):
    manifest = manifests.load(path)
  found: dict[str, Any] = {
    "path": path,
    "bytes": _bytes_of(path),
    "notes": _notes(splits, manifest),
    "splits": {
      split: _of_split(source, split, manifest)
      for split, source in splits.items()
    },
  }
  if manifest is not None:
    found["manifest"] = {
      "name": manifest.name,
      "encoding": manifest.schema.encoding,
      "image_shape": list(manifest.schema.image_shape),
      "multilabel": manifest.schema.multilabel,
      "source": manifest.source,
      "licence": manifest.licence,
      "made": {k: v for k, v in manifest.made.items() if k != "splits"},
    }
  return found


def _notes(
  splits: Mapping[Split, Source], manifest: manifests.Manifest | None
) -> list[str]:
  """Returns the notes of the sources, and those made during the build."""
  found = notes.of_sources({split: (splits[split],) for split in splits})
  made = manifest.made.get("splits", {}) if manifest else {}
  before = (
    note for of_split in made.values() for note in of_split.get("notes", ())
  )
  return [*found, *dict.fromkeys(f"when it was built: {n}" for n in before)]


def _bytes_of(path: str) -> int | None:
  if places.is_remote(path):
    return places.size_of(path)
  if os.path.isdir(path):
    return sum(
      os.lstat(os.path.join(folder, file)).st_size
      for folder, _, files in os.walk(path)
      for file in files
    )
  return os.path.getsize(path) if os.path.exists(path) else None


def _of_split(
  source: Source, split: Split, manifest: manifests.Manifest | None
) -> dict[str, Any]:
  found = survey(source)
  decoded = _spread(len(source), _DECODED_IMAGES)
  unreadable = sum(_image_of(source, index) is None for index in decoded)
  made = manifest.made.get("splits", {}).get(split, {}) if manifest else {}
  shards = manifest.of(split) if manifest else None
  return {
    "records": len(source),
    "identity": source.identity,
    "padding": source.padding,
    "files": len(source.file_records),
    "bytes": sum(shard.bytes for shard in shards) if shards else None,
    "image_shapes": {text_of(s): n for s, n in found.counts.items()},
    "shape_examples": {
      text_of(s): source.where(i) for s, i in found.examples.items()
    },
    "headers_read": found.looked_at,
    "unreadable_headers": found.unreadable,
    "decoded": len(decoded),
    "unreadable": unreadable,
    "class_names": list(source.class_names),
    "label_counts": made.get("label_counts") or _label_counts(source),
    "rejects": made.get("rejects"),
    "duplicates": made.get("duplicates"),
  }


def _spread(total: int, count: int) -> list[int]:
  """Returns up to `count` indices, evenly spaced in [0, total)."""
  count = min(total, count)
  return [i * total // count for i in range(count)]


def _label_counts(source: Source) -> list[int] | None:
  if not source.num_classes:
    return []
  try:
    labels = source.labels()
  except DataError:
    return None
  return np.bincount(labels, minlength=source.num_classes).tolist()


def text(found: Mapping[str, Any]) -> str:
  """Formats the result of `facts` as text."""
  lines = [found["path"]]
  if found["bytes"] is not None:
    lines[0] += f": {_size(found['bytes'])} on disk"
  if "manifest" in found:
    lines += _provenance(found["manifest"])
  lines += [f"note: {sentence}" for sentence in found["notes"]]
  for split, facts_of in found["splits"].items():
    lines += ["", *_split_lines(split, facts_of, found)]
  if "heldout" not in found["splits"]:
    lines += ["", "no heldout split"]
  return "\n".join(map(shown, lines))


def _provenance(manifest: Mapping[str, Any]) -> list[str]:
  several = ", multiple labels per record" if manifest["multilabel"] else ""
  shape = " x ".join(map(str, manifest["image_shape"]))
  lines = [
    f"name: {manifest['name']}",
    f"records: {shape} uint8, {manifest['encoding']}{several}",
    f"source: {manifest['source']}",
    f"licence: {manifest['licence']}",
  ]
  made = [
    f"{name}={', '.join(f'{k} {v}' for k, v in value.items())}"
    if isinstance(value, Mapping)
    else f"{name}={value}"
    for name, value in manifest["made"].items()
  ]
  return [*lines, f"made: {'; '.join(made)}"] if made else lines


def _split_lines(
  split: str, of_split: Mapping[str, Any], found: Mapping[str, Any]
) -> list[str]:
  records = of_split["records"]
  line = f"{split}: {records:,} images in {of_split['files']:,} files"
  total = sum(other["records"] for other in found["splits"].values())
  if of_split["bytes"] is not None:
    line += f", {_size(of_split['bytes'])}"
    line += f", {of_split['bytes'] / records:,.0f} bytes per image"
  elif found["bytes"] is not None:
    line += f", about {found['bytes'] / total:,.0f} bytes per image"
  lines = [line, f"  identity: {of_split['identity']}"]
  if of_split["padding"]:
    lines.append(f"  padding: {of_split['padding']} px of black on each side")
  lines += _shape_lines(of_split)
  if of_split["unreadable"]:
    lines.append(
      f"  unreadable: {of_split['unreadable']} of {of_split['decoded']} decoded"
    )
  for name in ("rejects", "duplicates"):
    if of_split[name]:
      lines.append(f"  {name} left out: {of_split[name]:,}")
  return lines + _histogram(of_split["class_names"], of_split["label_counts"])


def _shape_lines(of_split: Mapping[str, Any]) -> list[str]:
  """Formats the shapes, with an example file of each less common shape."""
  shapes = of_split["image_shapes"]
  total = of_split["headers_read"]
  lines = []
  for shape, count in list(shapes.items())[:_SHOWN_SHAPES]:
    line = f"  {shape}: {count:,} of {total:,} headers"
    if lines:
      line += f", such as {of_split['shape_examples'][shape]}"
    lines.append(line)
  if len(shapes) > _SHOWN_SHAPES:
    lines.append(f"  and {len(shapes) - _SHOWN_SHAPES:,} other shapes")
  if of_split["unreadable_headers"]:
    lines.append(
      f"  unreadable headers: {of_split['unreadable_headers']:,} of {total:,}"
    )
  return lines


def _histogram(names: Sequence[str], counts: Sequence[int] | None) -> list[str]:
  if not names:
    return ["  no labels"]
  if counts is None:
    return [f"  {len(names):,} classes, image counts unknown"]
  lines = [
    f"  {len(names):,} classes, {min(counts):,} to {max(counts):,} images each"
  ]
  some = [*map(shown, names[:_SHOWN_CLASSES])]
  width = max(map(len, some))
  for name, count in zip(some, counts, strict=False):
    bar = "#" * round(_BAR * count / max(1, *counts))
    lines.append(f"  {name:{width}} {count:>9,} {bar}".rstrip())
  if len(names) > _SHOWN_CLASSES:
    lines.append(f"  and {len(names) - _SHOWN_CLASSES:,} more")
  return lines


def _size(count: int) -> str:
  for unit in ("bytes", "kB", "MB", "GB"):
    if count < 1000:
      return f"{count:,.3g} {unit}" if unit != "bytes" else f"{count} {unit}"
    count /= 1000
  return f"{count:,.1f} TB"


def contact_sheet(
  source: Source, path: str | os.PathLike[str], num: int = 64
) -> None:
  """Writes a PNG of sample images, one row per class.

  If there are more classes than rows, some of the classes are shown. A record
  that cannot be read is drawn as a red cross. Aspect ratios are preserved.

  Args:
    source: source of the images.
    path: path of the PNG.
    num: approximate number of images.

  Raises:
    DataError: `num` is below 1, or the file cannot be written.
  """
  if num < 1:
    raise DataError(f"num={num} must be 1 or more")
  rows = _rows(source, num)
  cells = [[_image_of(source, index) for index in row] for _, row in rows]
  sides = [max(c.shape[:2]) for row in cells for c in row if c is not None]
  side = min(max([*sides, _CELL[0]]), _CELL[1])
  sheet = _draw([name for name, _ in rows], cells, side)
  partial = f"{os.fspath(path)}.partial"
  try:
    sheet.save(partial, format="PNG")
    os.replace(partial, path)
  except OSError as error:
    raise DataError(
      f"{path} cannot be written ({error.strerror}); use another file"
    ) from error


def _rows(source: Source, num: int) -> list[tuple[str, list[int]]]:
  """Returns the name of each row and its record indices."""
  if not source.num_classes:
    indices, columns = _spread(len(source), num), math.isqrt(num - 1) + 1
    starts = range(0, len(indices), columns)
    return [("", indices[start : start + columns]) for start in starts]
  indices, labels = _some_labels(source)
  present = np.unique(labels).tolist()
  count = len(present) if 4 * len(present) <= num else math.isqrt(num)
  chosen = [present[i] for i in _spread(len(present), count)]
  rows = []
  for label in chosen:
    members = indices[labels == label]
    of_row = members[_spread(len(members), max(1, num // len(chosen)))]
    rows.append((source.class_names[label], of_row.tolist()))
  return rows


def _some_labels(source: Source) -> tuple[np.ndarray, np.ndarray]:
  """Returns indices and first labels of all records, or of a sample."""
  if len(source) <= _MAX_ALL_LABELS:
    return np.arange(len(source)), source.labels()
  indices, labels = [], []
  for index in _spread(len(source), _SAMPLED_LABELS):
    try:
      labels.append(source.read(index).labels[0])
      indices.append(index)
    except BadRecordError:
      continue
  return np.array(indices), np.array(labels)


def _image_of(source: Source, index: int) -> np.ndarray | None:
  try:
    return source.read(index).image
  except BadRecordError:
    return None


def _draw(
  names: Sequence[str], cells: Sequence[Sequence[np.ndarray | None]], side: int
) -> Any:
  from PIL import Image, ImageDraw, ImageFont

  names = [*map(shown, names)]
  font = ImageFont.load_default()
  margin = math.ceil(max(font.getlength(name) for name in names))
  margin += 2 * _GAP if margin else 0
  step = side + _GAP
  width = margin + step * max(len(row) for row in cells) + _GAP
  sheet = Image.new("RGB", (width, step * len(cells) + _GAP), "white")
  draw = ImageDraw.Draw(sheet)
  for down, (name, row) in enumerate(zip(names, cells, strict=True)):
    top = down * step + _GAP
    draw.text((_GAP, top + side // 2), name, "black", font, anchor="lm")
    for across, image in enumerate(row):
      left = margin + across * step + _GAP
      if image is None:
        draw.line((left, top, left + side, top + side), "red", 3)
        draw.line((left, top + side, left + side, top), "red", 3)
      else:
        _paste(sheet, image, left, top, side)
  return sheet


def _paste(
  sheet: Any, image_hwc: np.ndarray, left: int, top: int, side: int
) -> None:
  from PIL import Image

  height, width = image_hwc.shape[:2]
  longest = max(height, width)
  if longest > side:
    height = max(1, height * side // longest)
    width = max(1, width * side // longest)
    image_hwc = recipe.resize(image_hwc, height, width)
  else:
    # Integer factors keep pixels sharp.
    factor = side // longest
    image_hwc = image_hwc.repeat(factor, axis=0).repeat(factor, axis=1)
  pixels = image_hwc[..., 0] if image_hwc.shape[-1] == 1 else image_hwc
  height, width = pixels.shape[:2]
  place = (left + (side - width) // 2, top + (side - height) // 2)
  sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), place)
