"""Files that claim or unpack to too much data are rejected by their header."""

import io
import re
import struct
import zipfile
import zlib

import numpy as np
import pytest
from image_files import png, write
from PIL import Image

from bigscale.data import images
from bigscale.data.archives import TarSource
from bigscale.data.encoded import RangeFile
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError
from bigscale.data.pillow import MOST_BYTES
from tests.data.test_archives import write_tar

# Memory that decoding any image takes, MiB.
LITTLE = 12
LARGE = bytes(1 << 26)
PACKED = b"a\0\0" + zlib.compress(LARGE[: 1 << 25], 1)


def peak(function):
  """Returns a call's peak memory in MiB, and the exception it raises."""
  with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
  before = high_water()
  with pytest.raises((ValueError, DataError)) as raised:
    function()
  return high_water() - before, str(raised.value)


def high_water():
  with open("/proc/self/status") as file:
    return int(re.search(r"VmHWM:\s+(\d+)", file.read())[1]) / 1024


def file_of(kind, **how):
  file = io.BytesIO()
  Image.new("RGB", (8, 8)).save(file, kind, **how)
  return bytearray(file.getvalue())


def jpeg(height, width, arithmetic=False, **how):
  data = file_of("JPEG", **how)
  frame = data.index(b"\xff\xc2" if how.get("progressive") else b"\xff\xc0")
  data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
  data[frame + 1] |= 8 * arithmetic
  return bytes(data)


def chunk(name, content):
  check = struct.pack(">I", zlib.crc32(name + content))
  return struct.pack(">I", len(content)) + name + content + check


def png_of(width, height, *more):
  return b"".join(
    [
      b"\x89PNG\r\n\x1a\n",
      chunk(b"IHDR", struct.pack(">IIBB3x", width, height, 8, 2)),
      *more,
      chunk(b"IDAT", zlib.compress(bytes(99))),
      chunk(b"IEND", b""),
    ]
  )


def gif(width, height):
  data = file_of("GIF")
  data[6:10] = struct.pack("<HH", width, height)
  return bytes(data)


def webp(width, height):
  data = file_of("WEBP", lossless=True)
  sides = data.index(b"VP8L") + 9
  data[sides : sides + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
  return bytes(data)


def bmp(width, height):
  data = file_of("BMP")
  data[18:26] = struct.pack("<ii", width, height)
  return bytes(data)


def tiff(side, tile=0):
  packed = zlib.compress(bytes(64))
  tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 278: side}
  tags |= {273: 0, 279: len(packed)}
  if tile:
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1}
    tags |= {322: tile, 323: tile, 324: 0, 325: len(packed)}
  place = 8 + 2 + 12 * len(tags) + 4
  tags[324 if tile else 273] = place
  entries = b"".join(
    struct.pack("<HHII", tag, 4, 1, value)
    for tag, value in sorted(tags.items())
  )
  head = b"II*\0" + struct.pack("<IH", 8, len(tags))
  return head + entries + bytes(4) + packed


BOMBS = {
  "jpeg": lambda: jpeg(65_500, 65_500),
  "jpeg_of_a_limit": lambda: jpeg(13_000, 13_000),
  "jpeg_in_scans": lambda: jpeg(13_000, 13_000, progressive=True),
  "jpeg_arithmetic": lambda: jpeg(13_000, 13_000, arithmetic=True),
  "png": lambda: png_of(60_000, 60_000),
  "png_text": lambda: png_of(
    8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(LARGE))
  ),
  "png_profile": lambda: png_of(
    8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(LARGE))
  ),
  "png_of_a_limit": lambda: png_of(13_000, 13_000),
  "gif": lambda: gif(65_535, 65_535),
  "gif_of_a_limit": lambda: gif(13_000, 13_000),
  "webp_of_a_limit": lambda: webp(13_000, 13_000),
  "webp": lambda: webp(16_383, 16_383),
  "bmp": lambda: bmp(40_000, 40_000),
  "tiff": lambda: tiff(60_000),
  "tiff_tiles": lambda: tiff(64, 40_000),
  "ppm": lambda: b"P6 99999 99999 255\n" + bytes(99),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_images_with_too_large_headers_take_no_memory(kind):
  images.decode(png(0))  # imports
  data = BOMBS[kind]()
  mib, said = peak(lambda: images.decode(data))
  assert mib < LITTLE
  assert said.startswith("it ")


def test_a_large_flat_jpeg_is_read():
  """It has one or two bits per 8 x 8 pixels, the minimum."""
  file = io.BytesIO()
  flat = Image.new("L", (5000, 5000))
  flat.save(file, "JPEG", progressive=True, optimize=True)
  assert 5000**2 / len(file.getvalue()) > 200
  assert images.decode(file.getvalue()).shape == (5000, 5000, 1)


def entry(path, data, **lies):
  """Writes a zip of two images and an entry with a false directory entry."""
  with zipfile.ZipFile(
    path, "w", zipfile.ZIP_DEFLATED, compresslevel=1
  ) as archive:
    archive.writestr("0.png", png(0))
    archive.writestr("1.png", png(1))
    archive.writestr("2.png", data)
    for name, value in lies.items():
      setattr(archive.filelist[-1], name, value)
  return FolderSource(str(path), heldout_fraction=0.0)


@pytest.mark.parametrize(
  ("data", "lies", "reason"),
  [
    (LARGE, {}, "67,108,864 bytes, but does not start like an"),
    (
      b"",
      {"file_size": 2**31 - 1},
      "2,147,483,647 bytes, but only files of at",
    ),
    (
      b"",
      {"file_size": 2**40},
      "1,099,511,627,776 bytes, but only files of at",
    ),
    (LARGE, {"file_size": 700}, "701 bytes, but had 700|checksum"),
    (b"", {"compress_size": 2**40}, "1,099,511,627,776 bytes, but only files"),
    (
      b"",
      {"file_size": 2**40, "compress_size": 2**40},
      "bytes, but only files",
    ),
    (png(2), {"header_offset": 2**40}, "the zip's directory has a wrong"),
  ],
)
def test_zip_entries_that_are_too_large_are_rejected(
  tmp_path, data, lies, reason
):
  source = entry(tmp_path / "a.zip", data, **lies)
  for read in (source.read, source.shape, source.read_bytes):
    if read == source.shape and "header" in reason:
      continue
    mib, said = peak(lambda read=read: read(2))
    assert mib < LITTLE
    assert re.search(f"2.png.*({reason}|header cannot be read)", said)
  assert source.read(1).image[0, 0, 0] == 1


def test_large_files_that_are_not_images_are_not_read(tmp_path):
  root = write(tmp_path / "set", {"0.png": png(0), "1.png": png(1)})
  for name, size in {"2.png": 1 << 26, "3.png": MOST_BYTES + 1}.items():
    with open(f"{root}/{name}", "wb") as file:
      file.truncate(size)
  tar = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("1.png", LARGE)])
  for source, index in (
    (FolderSource(root, heldout_fraction=0.0), 2),
    (FolderSource(root, heldout_fraction=0.0), 3),
    (TarSource(tar, heldout_fraction=0.0), 1),
  ):
    mib, said = peak(lambda s=source, i=index: s.read(i))
    assert mib < LITTLE
    assert "bytes, but " in said


def test_a_large_file_that_is_an_image_is_read(tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (2500, 2500, 3), np.uint8)
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "BMP")
  root = write(tmp_path / "set", {"0.bmp": file.getvalue(), "1.png": png(1)})
  source = FolderSource(root, heldout_fraction=0.0)
  np.testing.assert_array_equal(source.read(0).image, pixels)


def test_labels_and_tables_that_are_too_large_are_rejected(tmp_path):
  tar = write_tar(tmp_path / "a.tar", [("0.png", png(0)), ("0.cls", LARGE)])
  mib, said = peak(lambda: TarSource(tar, heldout_fraction=0.0))
  assert mib < 2 * LITTLE + 16
  assert "0.cls" in said
  root = write(tmp_path / "set", {"0.png": png(0), "dataset.json": b""})
  with open(f"{root}/dataset.json", "wb") as file:
    file.truncate(MOST_BYTES + 1)
  mib, said = peak(lambda: FolderSource(root))
  assert mib < LITTLE
  assert "dataset.json is not a readable JSON file" in said


def test_a_growing_file_is_read_up_to_its_listed_size(tmp_path):
  root = write(tmp_path / "set", {"0.png": png(0), "1.png": png(1)})
  source = FolderSource(root, heldout_fraction=0.0)
  with open(f"{root}/1.png", "ab") as file:
    file.truncate(1 << 26)
  mib, said = peak(lambda: source.read(1))
  assert mib < LITTLE
  assert "when listed" in said


def test_a_range_past_the_end_of_a_file_is_cut_short(tmp_path):
  (tmp_path / "a").write_bytes(b"abc")
  assert RangeFile(str(tmp_path / "a")).read(1, 1 << 29) == b"bc"
