"""Surveys of image shapes, and the choices based on them."""

import io
import tarfile
import zipfile

import numpy as np
import pytest
from built_set import encoded
from image_files import write, write_zip
from PIL import Image

from bigscale.data import images, shapes
from bigscale.data.archives import TarSource
from bigscale.data.inputs import BothSplits
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source

_KINDS = {
  "gray png": ("L", "PNG", {}),
  "color png": ("RGB", "PNG", {}),
  "transparent png": ("RGBA", "PNG", {}),
  "gray transparent png": ("LA", "PNG", {}),
  "palette png": ("P", "PNG", {}),
  "bits png": ("1", "PNG", {}),
  "16 bit png": ("I;16", "PNG", {}),
  "gray jpeg": ("L", "JPEG", {}),
  "color jpeg": ("RGB", "JPEG", {}),
  "progressive jpeg": ("RGB", "JPEG", {"progressive": True}),
  "cmyk jpeg": ("CMYK", "JPEG", {}),
  "long header": ("RGB", "JPEG", {"icc_profile": b"x" * 300_000}),
  "gif": ("P", "GIF", {}),
  "webp": ("RGB", "WEBP", {}),
  "bmp": ("RGB", "BMP", {}),
  "tiff": ("RGB", "TIFF", {}),
  "gray tiff": ("L", "TIFF", {}),
}


def picture(mode, height=6, width=9):
  pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
  color = Image.fromarray(pixels.astype(np.uint8))
  if mode == "I;16":
    return Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
  return color.convert(mode)


@pytest.mark.parametrize("kind", _KINDS)
def test_the_header_gives_the_decoded_shape(kind, tmp_path):
  mode, file_format, settings = _KINDS[kind]
  data = encoded(picture(mode), file_format, **settings)
  expected = images.decode(data).shape
  assert images.shape_of(data) == expected
  files = {"a.png": data, "b.png": data}
  sources = {
    "folder": write(tmp_path / "folder", files),
    "stored": write_zip(tmp_path / "stored.zip", files),
    "packed": write_zip(tmp_path / "p.zip", files, zipfile.ZIP_DEFLATED),
  }
  for path in sources.values():
    assert shapes.survey(BothSplits(path)).counts == {expected: 2}


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_not_an_image_have_no_shape(data):
  with pytest.raises(ValueError, match="header"):
    images.shape_of(data)


@pytest.mark.parametrize("kind", ["color jpeg", "long header", "tiff", "gif"])
def test_a_damaged_header_is_an_unreadable_image(kind):
  mode, file_format, settings = _KINDS[kind]
  exif = Image.Exif()
  exif[0x0112] = 6
  if file_format == "JPEG":
    settings = settings | {"exif": exif}
  data = bytearray(encoded(picture(mode), file_format, **settings))
  random = np.random.default_rng(0)
  for _ in range(100):
    damaged = data.copy()
    for place in random.integers(0, min(len(data), 200), 3):
      damaged[place] = random.integers(256)
    try:
      shape = images.shape_of(bytes(damaged))
    except ValueError:
      continue
    assert len(shape) == 3


def test_only_the_header_is_read_from_a_tar(tmp_path):
  data = encoded(picture("RGB", 400, 300), "BMP")
  path = tmp_path / "set.tar"
  with tarfile.open(path, "w") as tar:
    for name in ("a", "b", "c"):
      info = tarfile.TarInfo(f"{name}.bmp")
      info.size = len(data)
      tar.addfile(info, io.BytesIO(data))
  source = TarSource(str(path), heldout_fraction=0)
  read = []
  usual = source._files[0].read
  source._files[0].read = lambda offset, size: (
    read.append(size),
    usual(offset, size),
  )[1]
  assert shapes.survey(source).counts == {(400, 300, 3): 3}
  assert max(read) == images.FIRST_BYTES < len(data)


def folder_of(root, *groups):
  """Writes images of each mode and side, and unreadable ones last."""
  files, number = {}, 0
  for count, mode, side in groups:
    for _ in range(count):
      data = encoded(picture(mode, side, side), "PNG")
      files[f"{number:03d}.png"] = data if side else b"torn"
      number += 1
  return BothSplits(write(root, files))


@pytest.mark.parametrize(
  ("odd", "others", "expected"),
  [
    ((1, "L", 8), (39, "RGB", 8), (8, 3)),
    ((1, "RGB", 8), (39, "L", 8), (8, 1)),
    ((1, "RGB", 4), (39, "RGB", 8), (8, 3)),
    ((1, "RGB", 64), (39, "RGB", 8), (8, 3)),
  ],
)
def test_one_unusual_image_does_not_change_the_choice(
  tmp_path, odd, others, expected
):
  for name, groups in (("first", (odd, others)), ("last", (others, odd))):
    source = folder_of(tmp_path / name, *groups)
    found = shapes.survey(source)
    assert shapes.choose(source, found) == expected
    assert found.looked_at == found.records == 40
    number = 0 if name == "first" else 39
    assert f"{number:03d}.png" in found.describe(source)


@pytest.mark.parametrize(
  ("groups", "what", "flag"),
  [
    (((10, "RGB", 8), (10, "RGB", 9)), "sizes", "--resolution"),
    (((10, "RGB", 8), (10, "L", 8)), "channels", "--channels"),
    (((5, "RGB", 4), (20, "RGB", 9)), "sizes", "--resolution"),
  ],
)
def test_sets_of_several_shapes_are_rejected(tmp_path, groups, what, flag):
  source = folder_of(tmp_path / "set", *groups)
  found = shapes.survey(source)
  with pytest.raises(DataError, match=f"different {what}.*{flag}") as error:
    shapes.choose(source, found)
  assert ".png" in str(error.value)
  side, channels = shapes.choose(source, found, side=16, channels=1)
  assert (side, channels) == (16, 1)


def test_headers_that_cannot_be_read_are_counted(tmp_path):
  files = {f"{i}.png": encoded(picture("RGB"), "PNG") for i in range(5)}
  files |= {f"{i}.png": b"torn" for i in range(5, 8)}
  found = shapes.survey(BothSplits(write(tmp_path / "set", files)))
  assert (found.unreadable, found.looked_at) == (3, 8)
  torn = BothSplits(
    write(tmp_path / "torn", {"a.png": b"torn", "b.png": b"torn"})
  )
  with pytest.raises(DataError, match="none of 2 headers"):
    shapes.choose(torn, shapes.survey(torn))


def test_large_sets_are_sampled(tmp_path):
  source = folder_of(tmp_path / "set", (60, "RGB", 4))
  found = shapes.survey(source, most=20)
  assert (found.looked_at, found.records) == (20, 60)
  assert found.counts == {(4, 4, 3): 20}
  assert "of 20 headers read" in found.describe(source)


def test_late_color_digits_are_rejected(tmp_path):
  files = {
    f"{'ab'[i % 2]}/{i:02d}.png": encoded(picture("L", 4, 4), "PNG")
    for i in range(60)
  }
  files["b/99.png"] = encoded(picture("RGB", 4, 4), "PNG")
  path = write(tmp_path / "digits", files)
  split = "train"
  if not any(
    "99" in open_source(path, split).where(i)
    for i in range(len(open_source(path, split)))
  ):
    split = "heldout"
  with pytest.raises(DataError, match=r"3 channels .*99\.png.*gray images"):
    open_source(f"stacked:{path}", split)
