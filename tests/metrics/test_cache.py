import logging
import os

import numpy as np
import pytest

from bigscale.metrics import cache


def test_arrays_are_read_back(tmp_path):
  path = str(tmp_path / "new" / "a.npz")
  arrays = {"params/w": np.arange(6.0).reshape(2, 3), "n": np.int64(4)}
  assert cache.write(path, arrays)
  read = cache.read(path)
  assert read.keys() == arrays.keys()
  np.testing.assert_array_equal(read["params/w"], arrays["params/w"])
  assert os.listdir(tmp_path / "new") == ["a.npz"]


def test_a_missing_file_is_none_without_a_warning(tmp_path, caplog):
  assert cache.read(str(tmp_path / "none.npz")) is None
  assert not caplog.records


def _cut(data):
  return data[: len(data) // 2]


def _flip_a_bit(data):
  middle = len(data) // 2
  return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [_cut, _flip_a_bit, lambda data: b""])
def test_a_damaged_file_is_none_with_a_warning(tmp_path, caplog, damage):
  path = tmp_path / "a.npz"
  cache.write(str(path), {"x": np.arange(1000)})
  path.write_bytes(damage(path.read_bytes()))
  assert cache.read(str(path)) is None
  assert "corrupt" in caplog.text


def test_pickles_are_not_opened(tmp_path, caplog):
  path = str(tmp_path / "a.npz")
  np.savez(path, x=np.array([{"an": "object"}], dtype=object))
  assert cache.read(path) is None
  assert "corrupt" in caplog.text


def test_an_unwritable_cache_warns(tmp_path, caplog):
  blocker = tmp_path / "file"
  blocker.write_text("in the way")
  with caplog.at_level(logging.WARNING):
    assert not cache.write(str(blocker / "a.npz"), {"x": np.zeros(1)})
  assert cache.ENVIRONMENT in caplog.text
  assert "without a cache" in caplog.text


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "a.npz"
  cache.write(str(path), {"x": np.zeros(1)})

  def full(source, target):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", full)
  assert not cache.write(str(path), {"x": np.ones(1)})
  assert os.listdir(tmp_path) == ["a.npz"]
  assert cache.read(str(path))["x"] == 0


def test_the_directory_is_argument_then_environment_then_home(monkeypatch):
  monkeypatch.setenv(cache.ENVIRONMENT, "/from/environment")
  assert cache.directory("/given") == "/given"
  assert cache.directory() == "/from/environment"
  monkeypatch.delenv(cache.ENVIRONMENT)
  monkeypatch.setenv("HOME", "/home/someone")
  assert cache.directory() == "/home/someone/.cache/bigscale"


def test_the_name_depends_on_all_of_the_content():
  def name(**content):
    return cache.path_of("/c", "classifier", "a b/c", content)

  assert name(seed=0).startswith("/c/classifier-a_b_c-")
  assert name(seed=0, size=2) == name(size=2, seed=0)
  assert name(seed=0) != name(seed=1)
