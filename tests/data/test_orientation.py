"""Images are upright in every decoder, in training and in built sets."""

import io
import struct

import numpy as np
import pytest
from built_set import encoded, options, save
from PIL import Image, ImageOps

from bigscale.data import images, orientation, records
from bigscale.data import manifest as manifests
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.openers import open_source

HEIGHT, WIDTH = 12, 20
TAG = 0x0112
ALL = range(1, 9)
KINDS = {
  "jpeg": ("JPEG", "RGB", {"quality": 95}),
  "progressive jpeg": ("JPEG", "RGB", {"progressive": True}),
  "gray jpeg": ("JPEG", "L", {}),
  "cmyk jpeg": ("JPEG", "CMYK", {}),
  "png": ("PNG", "RGB", {}),
  "16-bit png": ("PNG", "I;16", {}),
  "palette png": ("PNG", "P", {}),
  "transparent png": ("PNG", "RGBA", {}),
  "webp": ("WEBP", "RGB", {"lossless": True}),
  "tiff": ("TIFF", "RGB", {}),
  "packed tiff": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
  "gray tiff": ("TIFF", "L", {}),
}


def picture(mode="RGB"):
  """An image in which no two corners, rows or columns are alike."""
  y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
  planes = [8 * x + 4 * y, 255 - 10 * x, 10 * y + 30, 255 - 0 * y]
  color = np.stack(planes, -1).astype(np.uint8)
  if mode == "I;16":
    return Image.fromarray(color[..., 0].astype(np.uint16) * 257)
  if mode == "RGBA":
    return Image.fromarray(color)
  return Image.fromarray(color[..., :3]).convert(mode)


def photo(kind, turned):
  form, mode, settings = KINDS[kind]
  exif = Image.Exif()
  exif[TAG] = turned
  return encoded(picture(mode), form, exif=exif, **settings)


def by_pillow(data, gray):
  with Image.open(io.BytesIO(data)) as file:
    upright = ImageOps.exif_transpose(file)
  if upright.mode == "I;16":
    return (np.asarray(upright) >> 8).astype(np.uint8)[..., None]
  pixels = np.asarray(upright.convert("L" if gray else "RGB"))
  return pixels[..., None] if gray else pixels


@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_applies_the_exif_orientation(kind):
  for turned in ALL:
    data = photo(kind, turned)
    decoded = images.decode(data)
    expected = by_pillow(data, decoded.shape[-1] == 1)
    np.testing.assert_array_equal(decoded, expected)
    high = turned >= 5
    assert decoded.shape[:2] == ((20, 12) if high else (12, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_the_header_gives_the_decoded_size(kind):
  for turned in ALL:
    data = photo(kind, turned)
    height, width = images.decode(data).shape[:2]
    with Image.open(io.BytesIO(data)) as file:
      assert orientation.size_of(file) == (width, height)


# Corner of the upright image that the stored upper left corner moves to. In the
# Exif standard, 6 is "the 0th row is at the right, the 0th column at the top".
CORNERS = {
  **{1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0)},
  **{5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)},
}


@pytest.mark.parametrize("turned", ALL)
def test_corners_match_the_exif_standard(turned):
  stored = np.zeros((3, 5, 1), np.uint8)
  stored[0, 0], stored[0, -1] = 200, 100
  upright = orientation.apply(stored, turned)[..., 0]
  row, column = CORNERS[turned]
  assert upright[row, column] == 200
  # The first stored row becomes a column if the sides are swapped.
  other = (-1 - row, column) if turned >= 5 else (row, -1 - column)
  assert upright[other] == 100


def jpeg_with(segment):
  data = encoded(picture(), "JPEG")
  size = struct.pack(">H", len(segment) + 2)
  return data[:2] + b"\xff\xe1" + size + segment + data[2:]


def exif(order, kind, value):
  letter = {3: "HH", 4: "I"}[kind]
  values = (value, 0) if kind == 3 else (value,)
  entries = struct.pack(f"{order}HHI2s2x", 0x010F, 2, 2, b"a\0")
  entries += struct.pack(f"{order}HHI{letter}", TAG, kind, 1, *values)
  magic = b"II*\0" if order == "<" else b"MM\0*"
  return magic + struct.pack(f"{order}IH", 8, 2) + entries + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4])
def test_exif_of_any_byte_order_is_read(order, kind):
  data = jpeg_with(b"Exif\0\0" + exif(order, kind, 6))
  assert orientation.of_jpeg(data) == orientation.of_file(data) == 6
  np.testing.assert_array_equal(images.decode(data), by_pillow(data, False))


def test_xmp_orientation_is_used_without_exif():
  xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="8"/>'
  data = jpeg_with(xmp)
  assert orientation.of_jpeg(data) == 8
  np.testing.assert_array_equal(images.decode(data), by_pillow(data, False))


@pytest.mark.parametrize(
  "segment",
  [
    b"Exif\0\0",
    b"Exif\0\0II*\0",
    b"Exif\0\0II*\0\xff\xff\xff\xff",
    b"Exif\0\0" + exif("<", 3, 6)[:20],
    b"Exif\0\0" + exif("<", 3, 0),
    b"Exif\0\0" + exif("<", 3, 9),
    b"Exif\0\0nonsense",
    b"http://ns.adobe.com/xap/1.0/\0tiff:Orientation",
    b"else",
  ],
)
def test_exif_without_orientation_is_ignored(segment):
  data = jpeg_with(segment)
  plain = images.decode(encoded(picture(), "JPEG"))
  np.testing.assert_array_equal(images.decode(data), plain)


def turned_photos(folder):
  files = {
    f"{kind}/{turned}.{KINDS[kind][0].lower()}": photo(kind, turned)
    for kind in KINDS
    for turned in ALL
    # All records of a sharded set have the same shape.
    if turned in (1, 2, 3, 4)
  }
  return FolderSource(save(folder, files), heldout_fraction=0.0)


@pytest.mark.parametrize("encoding", ["raw", "png", "jpeg"])
def test_a_built_set_has_the_pixels_of_the_files(tmp_path, encoding):
  source = turned_photos(tmp_path / "photos")
  path = str(tmp_path / "set")
  made = options(encoding=encoding, shuffle=False, quality=100)
  report = build({"train": source}, path, made)
  kept = report.manifest.made["splits"]["train"]["files_kept_as_they_were"]
  # One of four images of each format is already upright.
  assert kept == {"raw": 0, "png": 1, "jpeg": 2}[encoding]
  built = open_source(path, "train")
  for index in range(len(source)):
    unbuilt = source.read(index).image
    got = built.read(index).image.astype(int)
    if encoding == "jpeg":
      assert np.abs(got - unbuilt).mean() < 2
    else:
      np.testing.assert_array_equal(got, np.broadcast_to(unbuilt, got.shape))


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_records_of_a_built_set_are_upright(tmp_path, kind):
  files = {f"{turned}.{kind}": photo(kind, turned) for turned in (1, 3)}
  source = FolderSource(save(tmp_path / "photos", files), "train", 0.0)
  path = str(tmp_path / "set")
  schema = build(
    {"train": source}, path, options(encoding=kind, shuffle=False)
  ).manifest.schema
  from array_record.python.array_record_module import ArrayRecordReader

  (shard,) = manifests.load(path).shards
  reader = ArrayRecordReader(f"{path}/{shard.file}", "")
  for record in reader.read(0, 2):
    _, start = records.decode_labels(record, schema)
    assert orientation.of_file(record[start:]) == 1
