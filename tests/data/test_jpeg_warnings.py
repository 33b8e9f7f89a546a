"""JPEGs with libjpeg warnings decode to the same pixels as in Pillow."""

import io
import re
import struct
import threading
import warnings

import numpy as np
import pytest
from built_set import options
from image_files import write, write_zip
from PIL import Image
from test_archives import write_tar

from bigscale.data import images, pillow
from bigscale.data.archives import TarSource
from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.inputs import BothSplits
from bigscale.data.openers import open_source
from bigscale.data.sources import BadRecordError

_SCAN, _FRAME = b"\xff\xda", b"\xff\xc0"


def photo(mode="RGB"):
  noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
  return Image.fromarray(noise).resize((64, 48), Image.BICUBIC).convert(mode)


def jpeg(mode="RGB", **how):
  file = io.BytesIO()
  photo(mode).save(file, "JPEG", **{"quality": 90} | how)
  return file.getvalue()


def at(data, place, new):
  return data[:place] + new + data[place + len(new) :]


def segment(marker, content):
  return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def after_start(data, more):
  return data[:2] + more + data[2:]


def scan_end(data):
  start = data.index(_SCAN)
  return start + 5 + 2 * data[start + 4]


def markers(data, which):
  return [
    i
    for i in range(scan_end(data), len(data) - 1)
    if data[i] == 0xFF and data[i + 1] in which
  ]


PLAIN = jpeg()
RESTARTS = jpeg(restart_marker_blocks=1)
SCANS = jpeg(progressive=True)
FRAME = PLAIN.index(_FRAME)
SECOND, THIRD = markers(RESTARTS, range(0xD0, 0xD8))[1:3]
LAST_SCAN = SCANS.rindex(_SCAN)

DECODED = {
  "end_of_spectrum_0": at(PLAIN, scan_end(PLAIN), b"\0\0\0"),
  "zeros_before_the_end": PLAIN[:-2] + b"\0\0\0\0" + PLAIN[-2:],
  "more_before_the_end": PLAIN[:-2] + bytes(range(99)) + PLAIN[-2:],
  "zeros_after_the_end": PLAIN + bytes(99),
  "another_after_the_end": PLAIN + PLAIN,
  "wrong_restart": at(RESTARTS, SECOND, b"\xff\xd5"),
  "missing_restart": RESTARTS[:SECOND] + RESTARTS[SECOND + 2 :],
  "missing_part": RESTARTS[:SECOND] + RESTARTS[THIRD:],
  "last_scan_missing": SCANS[:LAST_SCAN] + b"\xff\xd9",
  "a_flipped_bit": at(PLAIN, len(PLAIN) - 200, b"\x5a"),
  "a_marker_in_the_scan": PLAIN[:-300] + b"\xff\xe7" + PLAIN[-300:],
  "damaged_profile": after_start(
    PLAIN, segment(0xE2, b"ICC_PROFILE\0\1\3abcd")
  ),
  "damaged_exif": after_start(
    PLAIN, segment(0xE1, b"Exif\0\0II*\0" + b"\xff" * 6)
  ),
  "odd_sampling": at(PLAIN, FRAME + 11, b"\x31"),
  "lines_too_few": at(PLAIN, FRAME + 5, struct.pack(">H", 24)),
  "lines_too_many": at(PLAIN, FRAME + 5, struct.pack(">H", 128)),
  "without_tables": PLAIN.replace(b"\xff\xc4", b"\xff\xe9"),
  "arithmetic": at(PLAIN, FRAME + 1, b"\xc9"),
  "gray": jpeg("L")[:-2] + bytes(4) + b"\xff\xd9",
  "inks": jpeg("CMYK")[:-2] + bytes(4) + b"\xff\xd9",
  "inks_of_no_maker": jpeg("CMYK").replace(b"Adobe", b"Adobx"),
  "colors_as_they_are": jpeg(keep_rgb=True)[:-2] + bytes(4) + b"\xff\xd9",
}
BROKEN = {
  "two_starts": PLAIN[:2] + PLAIN,
  "no_end": PLAIN[:-2],
  "no_end_of_scans": SCANS[:-2],
  "half": PLAIN[: len(PLAIN) // 2],
  "components_too_few": at(PLAIN, PLAIN.index(_SCAN) + 4, b"\2"),
  "first_scan_missing": SCANS[: SCANS.index(_SCAN)]
  + SCANS[SCANS.index(_SCAN, SCANS.index(_SCAN) + 2) :],
  "twelve_bits": at(PLAIN, FRAME + 4, b"\x0c"),
  "lossless": at(PLAIN, FRAME + 1, b"\xc3"),
  "no_lines": at(PLAIN, FRAME + 5, b"\0\0"),
  "no_quantization": PLAIN.replace(b"\xff\xdb", b"\xff\xe9"),
  "two_frames": PLAIN[:FRAME] + PLAIN[FRAME : FRAME + 19] + PLAIN[FRAME:],
  "noise_before": b"\0\0" + PLAIN,
}


def pillows(data):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    with Image.open(io.BytesIO(data)) as image:
      pixels = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
  return pixels[..., None] if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("kind", DECODED)
def test_jpegs_with_warnings_decode_as_in_pillow(kind):
  np.testing.assert_array_equal(
    images.decode(DECODED[kind]), pillows(DECODED[kind])
  )


@pytest.mark.parametrize("kind", BROKEN)
def test_jpegs_that_pillow_rejects_are_rejected(kind):
  with pytest.raises(Exception, match=r".") as raised:
    pillows(BROKEN[kind])
  assert not isinstance(raised.value, AssertionError)
  with pytest.raises(ValueError, match="it does not decode"):
    images.decode(BROKEN[kind])


def test_trailing_bytes_do_not_change_the_image():
  for kind in ("end_of_spectrum_0", "zeros_before_the_end"):
    np.testing.assert_array_equal(images.decode(DECODED[kind]), pillows(PLAIN))


def sources(tmp_path, files):
  root = write(tmp_path / "set", files)
  yield FolderSource(root, heldout_fraction=0.0)
  yield BothSplits(root)
  yield FolderSource(
    write_zip(tmp_path / "set.zip", files), heldout_fraction=0.0
  )
  yield TarSource(
    write_tar(tmp_path / "set.tar", sorted(files.items())), heldout_fraction=0.0
  )


def test_every_source_accepts_the_same_jpegs(tmp_path):
  files = {f"{kind}.jpg": data for kind, data in (DECODED | BROKEN).items()}
  for source in sources(tmp_path, files):
    assert len(source) == len(files)
    for index in range(len(source)):
      (kind,) = re.findall(r"(\w+)(?:\.jpg$|, in )", source.where(index))
      if kind in BROKEN:
        with pytest.raises(BadRecordError, match=kind):
          source.read(index)
      else:
        np.testing.assert_array_equal(
          source.read(index).image, pillows(DECODED[kind])
        )


def test_builds_keep_jpegs_with_warnings(tmp_path):
  color = {
    f"{kind}.jpg": data
    for kind, data in DECODED.items()
    if pillows(data).shape == (48, 64, 3)
  }
  out = str(tmp_path / "out")
  source = FolderSource(write(tmp_path / "in", color), heldout_fraction=0.0)
  how = {"resolution": 0, "encoding": "jpeg", "shuffle": False}
  build({"train": source}, out, options(**how))
  built = open_source(out, "train")
  kept = 0
  for index, name in enumerate(sorted(color)):
    found = built.read(index).image.astype(int)
    kept += np.array_equal(found, pillows(color[name]))
    # Files that few programs can read are encoded again.
    assert np.abs(found - pillows(color[name])).mean() < 4
  assert kept > len(color) / 2


def test_only_pillows_warnings_are_suppressed_in_threads():
  palette = Image.new("P", (4, 4))
  file = io.BytesIO()
  palette.save(file, "PNG", transparency=b"\x00\xff")
  before = list(warnings.filters)
  threads = [
    threading.Thread(
      target=lambda: [images.decode(file.getvalue()) for _ in range(30)]
    )
    for _ in range(4)
  ]
  for thread in threads:
    thread.start()
  with pillow.opened(file.getvalue()), pytest.raises(UserWarning, match="own"):
    warnings.warn("its own", UserWarning, stacklevel=1)
  for thread in threads:
    thread.join()
  assert list(warnings.filters) == before
