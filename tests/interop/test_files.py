"""Reading of files: contents, code that must not run, and error messages."""

import pathlib
import pickle
import sys
import types

import numpy as np
import pytest
from safetensors.numpy import save_file

from bigscale.interop import files
from bigscale.interop.files import FileError
from bigscale.spec import SpecError

_KERNEL = np.arange(6, dtype="f4").reshape(2, 3)


def _npz(path: pathlib.Path, **arrays) -> pathlib.Path:
  np.savez(path, **arrays)
  return path


def _refused(path, *words, **options):
  with pytest.raises(FileError) as caught:
    files.read_tensors(path, **options)
  assert isinstance(caught.value, SpecError)
  for word in (str(path), *words):
    assert word in str(caught.value)
  return caught.value


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_arrays_are_read(kind, tmp_path):
  path = tmp_path / f"a.{kind}"
  tensors = {"G/a.weight": _KERNEL, "b": np.ones(1, "f2")}
  if kind == "npz":
    _npz(path, **tensors)
  else:
    save_file(tensors, path)
  found = files.read_tensors(path)
  assert set(found) == {"G/a.weight", "b"}
  np.testing.assert_array_equal(found["G/a.weight"], _KERNEL)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("kept", [0, 30, -20])
def test_truncated_files_are_refused(kind, kept, tmp_path):
  path = tmp_path / f"a.{kind}"
  if kind == "npz":
    _npz(path, a=_KERNEL)
  else:
    save_file({"a": _KERNEL}, path)
  path.write_bytes(path.read_bytes()[:kept])
  _refused(path, "cannot be read", "truncated")


def test_a_damaged_entry_is_refused(tmp_path):
  path = _npz(tmp_path / "a.npz", a=_KERNEL)
  data = bytearray(path.read_bytes())
  data[data.index(_KERNEL.tobytes()) + 5] ^= 0xFF
  path.write_bytes(data)
  _refused(path, "CRC")


def test_object_arrays_are_not_unpickled(tmp_path):
  bomb = np.array([_Bomb(tmp_path / "boom")], dtype=object)
  path = _npz(tmp_path / "a.npz", fine=_KERNEL, odd=bomb)
  _refused(path, "odd", "Python objects", "never read")
  _refused(path, "odd", unsafe_pickle=True)
  assert not (tmp_path / "boom").exists()


def test_entries_that_are_not_numeric_are_named(tmp_path):
  path = _npz(tmp_path / "a.npz", a=_KERNEL, config=np.array("{}"), b=b"x")
  error = _refused(path, "config: an array of <U2", "b: an array of |S1")
  assert "\n  a:" not in str(error)


def test_missing_and_unknown_files_are_refused(tmp_path):
  _refused(tmp_path / "a.npz", "no file")
  other = tmp_path / "a.h5"
  other.write_bytes(b"x")
  _refused(other, "'.h5'", ".safetensors")
  fake = tmp_path / "b.npz"
  fake.write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
  _refused(fake, "not a whole zip")
  assert not (tmp_path / "boom").exists()


def test_missing_pytorch_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  path = tmp_path / "G.pth"
  path.write_bytes(b"x")
  _refused(path, "pip install bigscale[torch]")


class _Tensor:
  """The used part of a torch.Tensor."""

  def __init__(self, array):
    self.array = array

  def detach(self):
    return self

  def cpu(self):
    return self

  def float(self):
    return _Tensor(self.array.astype("f4"))

  def numpy(self):
    return self.array


@pytest.fixture
def torch(monkeypatch):
  """A stand-in for PyTorch whose `load` returns what the test sets."""
  module = types.ModuleType("torch")
  module.result, module.calls = {}, []

  def load(path, **options):
    module.calls.append((path, options))
    if isinstance(module.result, Exception):
      raise module.result
    return module.result

  module.load = load
  monkeypatch.setitem(sys.modules, "torch", module)
  return module


@pytest.mark.parametrize("ending", ["pth", "pt", "bin"])
def test_pytorch_files_load_weights_only(ending, torch, tmp_path):
  path = tmp_path / f"G.{ending}"
  path.write_bytes(b"x")
  torch.result = {"linear.weight": _Tensor(_KERNEL.astype("f8"))}
  (found,) = files.read_tensors(path).items()
  assert found[0] == "linear.weight"
  np.testing.assert_array_equal(found[1], _KERNEL)
  options = {"map_location": "cpu", "weights_only": True}
  assert torch.calls == [(path, options)]


def test_pytorch_files_of_a_training_run(torch, tmp_path):
  path = tmp_path / "all.pth"
  path.write_bytes(b"x")
  weights = {"a": _Tensor(_KERNEL)}
  torch.result = {"G": weights, "D": weights, "optimizer": {"lr": 1.0}}
  assert set(files.read_tensors(path)) == {"G/a", "D/a"}
  torch.result = {"a": _Tensor(_KERNEL), "epoch": 3}
  _refused(path, "epoch: int")
  torch.result = pickle.UnpicklingError("Weights only load failed.\nMore")
  error = _refused(path, "UnpicklingError", "Weights only load failed")
  assert "More" not in str(error)


class _Bomb:
  """Creates a file when it is unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return pathlib.Path.touch, (self.path,)


def test_pickles_need_the_flag(tmp_path):
  path = tmp_path / "a.pkl"
  path.write_bytes(pickle.dumps(_Bomb(tmp_path / "boom")))
  _refused(path, "runs any code", "--unsafe_pickle")
  assert not (tmp_path / "boom").exists()
  _refused(path, "NoneType", unsafe_pickle=True)
  assert (tmp_path / "boom").exists()


class _Module:
  """The used part of a torch.nn.Module."""

  def state_dict(self):
    return {"Model.a": _Tensor(_KERNEL)}


def test_pickled_modules_are_read_with_the_flag(tmp_path):
  path = tmp_path / "network-snapshot.pkl"
  saved = {"training_set_kwargs": {"path": "x"}, "G_ema": _Module()}
  path.write_bytes(pickle.dumps(saved))
  found = files.read_tensors(path, unsafe_pickle=True)
  assert set(found) == {"G_ema/Model.a"}
  _refused(path)


def test_pickles_without_their_code_are_refused(tmp_path, monkeypatch):
  module = types.ModuleType("authors_code")
  module.Module = type("Module", (), {"__module__": "authors_code"})
  monkeypatch.setitem(sys.modules, "authors_code", module)
  path = tmp_path / "a.pkl"
  path.write_bytes(pickle.dumps({"G": module.Module()}))
  monkeypatch.delitem(sys.modules, "authors_code")
  _refused(path, "authors_code", "PYTHONPATH", unsafe_pickle=True)


def test_other_entries_are_not_read(tmp_path):
  odd = np.array([{}], dtype=object)
  path = _npz(tmp_path / "a.npz", mu=_KERNEL, arr_0=odd)
  found = files.read_entries(path, ("mu", "sigma"))
  assert list(found) == ["mu"]
  with pytest.raises(FileError, match="arr_0"):
    files.read_entries(path, ("arr_0",))


def test_new_folder_is_atomic(tmp_path):
  out = tmp_path / "new" / "run"

  def stop_half_way():
    with files.new_folder(out) as folder:
      (folder / "a").write_text("half")
      raise KeyError("stopped")

  with pytest.raises(KeyError):
    stop_half_way()
  assert not list((tmp_path / "new").iterdir())
  with files.new_folder(out) as folder:
    assert not out.exists()
    (folder / "a").write_text("whole")
  assert [p.name for p in (tmp_path / "new").iterdir()] == ["run"]
  assert (out / "a").read_text() == "whole"


def test_unwritable_folders_are_refused(tmp_path):
  (tmp_path / "file").write_text("in the way")
  with (
    pytest.raises(FileError, match="cannot be written"),
    files.new_folder(tmp_path / "file" / "run"),
  ):
    pass
  full = tmp_path / "full"
  full.mkdir()
  assert files.require_new(full) == full
  (full / "a").write_text("mine")
  for path in (full, tmp_path / "file"):
    with pytest.raises(FileError, match="not empty"):
      files.require_new(path)
