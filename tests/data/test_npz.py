"""A damaged .npz, or one with false headers, gives a single error message."""

import io
import zipfile

import numpy as np
import pytest

from bigscale.data.arrays import open_npz
from bigscale.data.manifest import DataError

IMAGES = np.arange(40 * 4 * 4, dtype=np.uint8).reshape(40, 4, 4)


def entry(shape):
  """Returns a .npy with a given header."""
  out = io.BytesIO()
  header = {"descr": "|u1", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(out, header)
  return out.getvalue() + IMAGES.tobytes()


def write(path, **arrays):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, data in arrays.items():
      archive.writestr(f"{name}.npy", data)
  return str(path)


def test_a_correct_header_is_read(tmp_path):
  source = open_npz(write(tmp_path / "a.npz", images=entry((40, 4, 4))))
  assert source.read(0).image.shape == (4, 4, 1)


@pytest.mark.parametrize(
  "shape",
  [(41, 4, 4), (39, 4, 4), (2**31, 4, 4), (2**32 + 40, 4, 4), (2**62, 4, 4),
   (10**30, 4, 4), (-40, 4, 4), (-40, -4, 4), (40,)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["images", "labels"])
def test_a_false_header_is_rejected(tmp_path, shape, name):
  arrays = {"images": entry((40, 4, 4))} | {name: entry(shape)}
  with pytest.raises(DataError, match=rf"{name}.npy claims|must be integers"):
    open_npz(write(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
  "data", [b"", b"\x93NUMPY", b"hello", b"\x93NUMPY\x09\x00"]
)
def test_an_entry_that_is_not_an_array_is_rejected(tmp_path, data):
  with pytest.raises(DataError, match=r"cannot be read as \.npz"):
    open_npz(write(tmp_path / "a.npz", images=data))


def test_damaged_bytes_are_rejected_or_harmless(tmp_path):
  path = tmp_path / "a.npz"
  np.savez_compressed(path, images=IMAGES, labels=np.arange(40) % 3)
  whole, draw = path.read_bytes(), np.random.default_rng(0)
  refused = []
  for _ in range(150):
    data = bytearray(whole)
    data[draw.integers(len(data))] ^= 1 << draw.integers(8)
    path.write_bytes(data)
    try:
      open_npz(str(path))
    except DataError as error:
      refused.append(str(error))
  assert len(refused) > 50
  assert all(str(path) in message for message in refused)
