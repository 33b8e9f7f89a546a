"""Files that users mistake for weights: one clear message each."""

import pickle

import numpy as np
import pytest

from bigscale.interop import files
from bigscale.interop.files import FileError
from bigscale.interop.formats import Players, convert
from bigscale.interop.tensors import TensorsError

_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 285834123
"""
_KERNEL = np.arange(6, dtype="f4").reshape(2, 3)


def refused(path, **options):
  """Returns the message, which has no PyTorch advice and no colors."""
  with pytest.raises(FileError) as caught:
    files.read_tensors(path, **options)
  message = str(caught.value)
  assert str(path) in message
  assert "weights_only" not in message
  assert "\x1b" not in message
  assert "\n" not in message
  return message


@pytest.mark.parametrize("ending", ["pth", "pt", "npz", "safetensors", "pkl"])
@pytest.mark.parametrize(
  ("content", "words"),
  [
    (_POINTER, "is a Git LFS pointer"),
    (b"\n <!DOCTYPE html><html><title>Sign in</title>", "is a web page"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied', "is a web page"),
    (b"", "is empty"),
  ],
)
def test_files_without_weights_are_explained(ending, content, words, tmp_path):
  path = tmp_path / f"G.{ending}"
  path.write_bytes(content)
  assert words in refused(path)


def test_pointer_message_states_the_file_size(tmp_path):
  path = tmp_path / "G.pth"
  path.write_bytes(_POINTER)
  assert "a file of 285,834,123 bytes, not the file itself" in refused(path)


@pytest.fixture(scope="module")
def torch():
  return pytest.importorskip("torch")


def test_a_whole_module_is_named(torch, tmp_path):
  path = tmp_path / "G.pth"
  torch.save(torch.nn.Linear(2, 3), path)
  message = refused(path)
  assert "torch.nn.modules.linear.Linear" in message
  assert "Save the state dict" in message


def test_pickled_settings_are_named(torch, tmp_path):
  path = tmp_path / "G.pth"
  torch.save({"G": {"a": torch.zeros(2)}, "args": pickle.Pickler}, path)
  assert "pickle.Pickler" in refused(path)


def test_another_format_with_a_torch_extension_is_refused(torch, tmp_path):
  path = tmp_path / "G.pth"
  path.write_bytes(b"GIF89a" * 50)
  assert "cannot be read as a PyTorch file" in refused(path)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_floats_of_8_bits_are_named(ending, torch, tmp_path):
  path = tmp_path / f"G.{ending}"
  tensors = {
    "a": torch.ones(2, 2).to(torch.float8_e4m3fn),
    "b": torch.ones(2, 2),
  }
  if ending == "pth":
    torch.save(tensors, path)
  else:
    pytest.importorskip("safetensors.torch").save_file(tensors, path)
  assert "1 tensors are 8-bit floats (a)" in refused(path)


@pytest.mark.parametrize(
  ("tree", "names"),
  [
    ({"state_dict": {"a": _KERNEL}, "epoch": 3}, {"a"}),
    ({"model": {"a": _KERNEL}, "optimizer": {"lr": 1}}, {"a"}),
    ({"netG_state_dict": {"a": _KERNEL}, "iter": 5}, {"G/a"}),
    (
      {"g": {"a": _KERNEL}, "d": {"a": _KERNEL}, "g_ema": {"a": _KERNEL}},
      {"G/a", "D/a", "G_ema/a"},
    ),
    ({"g_ema": {"a": _KERNEL}, "latent_avg": _KERNEL}, {"G_ema/a"}),
    ({"state_dict": {"G": {"a": _KERNEL}}, "cfg": "x"}, {"G/a"}),
    ({"g": _KERNEL, "model": _KERNEL}, {"g", "model"}),
  ],
)
def test_networks_are_unwrapped(tree, names, tmp_path):
  path = tmp_path / "all.pkl"
  path.write_bytes(pickle.dumps(tree))
  assert set(files.read_tensors(path, unsafe_pickle=True)) == names


_R3GAN_G = {"AggregationLayer.Layer.weight": _KERNEL}
_R3GAN_D = {"ExtractionLayer.Layer.weight": _KERNEL}
_FOREIGN = {"synthesis.b4.const": _KERNEL, "mapping.fc0.weight": _KERNEL}


@pytest.mark.parametrize(
  ("name", "players", "words"),
  [
    ("r3gan", Players(_R3GAN_D), "generator: they are a discriminator's"),
    (
      "r3gan",
      Players(_R3GAN_G, _R3GAN_G),
      "discriminator: they are a generator's",
    ),
    ("biggan-hf", Players(_R3GAN_G), "look like a generator of --format=r3gan"),
    (
      "biggan-tfhub",
      Players(_FOREIGN),
      r"none of its 2 tensors \(synthesis\.b4\.const, mapping\.fc0\.weight\)",
    ),
    ("biggan-pytorch", Players({}), "none of its 0 tensors belongs to a gener"),
  ],
)
def test_wrong_networks_are_named(name, players, words):
  with pytest.raises(TensorsError, match=words) as caught:
    convert(name, players, None)
  assert "\n" not in str(caught.value)
