"""The FID's Inception-v3: resizing, chunks, devices, and its weights file.

`tests/interop/test_golden.py` compares its outputs with the authors'.
"""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from bigscale.cli.main import main
from bigscale.interop import inception as interop
from bigscale.interop.files import FileError, sha256
from bigscale.interop.tensors import TensorsError
from bigscale.metrics import inception_store
from bigscale.metrics.inception import TAPS, Inception
from bigscale.metrics.inception_resize import resize_clean, resize_tf1
from bigscale.parallel.mesh import make_mesh
from bigscale.spec import MeshSpec, SpecError
from tests.golden.inception_rule import rule_weights

_GOLDEN = Path(__file__).parents[1] / "golden" / "inception_v3_rule.npz"


@pytest.fixture(scope="module", autouse=True)
def quick_compiler():
  """Skips optimizations, because compilation dominates these tests."""
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def tensors():
  """A state dict by PyTorch name."""
  with np.load(_GOLDEN) as data:
    return rule_weights(json.loads(str(data["shapes"])))


@pytest.fixture(scope="module")
def weights(tensors):
  return interop.weights(tensors, "the rule")


@pytest.fixture(scope="module")
def stored(weights, tmp_path_factory):
  """The path of a file with these weights."""
  return inception_store.save(weights, str(tmp_path_factory.mktemp("cache")))


def on_devices(weights, count, **options):
  mesh = make_mesh(MeshSpec(data=count), jax.devices())
  return Inception(weights, mesh, **options)


@pytest.fixture(scope="module")
def inception(weights):
  """The network on one device, in chunks of two images."""
  return on_devices(weights, 1, images_per_device=2)


@pytest.fixture(scope="module")
def images():
  """Three different gray images as color, [3, 20, 20, 3] uint8."""
  gray = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 1), np.uint8)
  return np.repeat(gray, 3, axis=-1)


def assert_close(ours, theirs):
  """Asserts equality up to the order of summation."""
  scale = np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * scale)


# Resizing.


def test_tf1_samples_position_i_at_i_times_the_ratio():
  x = np.array([[0, 10], [20, 30]], np.float32)[None, :, :, None]
  # Positions 0, 2/3 and 4/3. The last is beyond the last pixel.
  expected = [
    [0, 20 / 3, 10],
    [40 / 3, 20, 70 / 3],
    [20, 80 / 3, 30],
  ]
  np.testing.assert_allclose(resize_tf1(x, 3)[0, :, :, 0], expected, rtol=1e-6)


def test_tf1_shrinks_without_antialiasing():
  x = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
  np.testing.assert_array_equal(resize_tf1(x, 3)[0, ..., 0], x[0, ::2, ::2, 0])


def test_clean_is_antialiased_bicubic_clipped_to_range():
  rows = np.array([[0, 0, 255, 255], [0, 0, 0, 255]], np.uint8)
  images = np.stack([np.tile(row, (4, 1)) for row in rows], -1)[None]

  # Pillow's cubic (a = -1/2) at twice its width, cut at the image edge.
  def cubic(x):
    if x < 1:
      return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)

  w = np.array([cubic(x) for x in (0.25, 0.25, 0.75, 1.25)])
  w /= w.sum()
  found = resize_clean(images, 2)
  assert (found.shape, found.dtype) == ((1, 2, 2, 2), np.float32)
  step = [255 * (w[2] + w[3]), 255 * (w[0] + w[1])]
  # The negative weight at the far end would give -9.5 here.
  edge = [0, 255 * w[0]]
  np.testing.assert_allclose(found[0, ..., 0], [step, step], rtol=1e-5)
  np.testing.assert_allclose(found[0, ..., 1], [edge, edge], rtol=1e-5)


# The network.


@pytest.mark.slow
def test_results_do_not_depend_on_chunks_and_padding(inception, images):
  whole = inception.taps(images)
  one_by_one = [inception.taps(images[i : i + 1]) for i in range(3)]
  for name, width in TAPS.items():
    assert whole[name].shape == (3, width)
    assert whole[name].dtype == np.float32
    alone = np.concatenate([found[name] for found in one_by_one])
    assert_close(whole[name], alone)
    assert len(np.unique(whole[name], axis=0)) == 3
  assert inception.features(images[:0]).shape == (0, 2048)


def test_four_devices_and_gray_images_give_the_same(weights, inception, images):
  four = on_devices(weights, 4, images_per_device=1)
  infer, parts = four._infer, []

  def watched(variables, placed):
    parts.extend(shard.data.shape for shard in placed.addressable_shards)
    return infer(variables, placed)

  four._infer = watched
  found, expected = four.embed(images[..., :1]), inception.embed(images)
  assert parts == [(1, 20, 20, 1)] * 4
  assert_close(found.features, expected.features)
  assert_close(found.probabilities, expected.probabilities)


def test_probabilities_use_logits_without_bias(inception, images):
  found = inception.taps(images[:2], ("logits_unbiased", "logits"))
  assert set(found) == {"logits_unbiased", "logits"}
  powers = np.exp(found["logits_unbiased"].astype(np.float64))
  expected = powers / powers.sum(-1, keepdims=True)
  assert_close(inception.probabilities(images[:2]), expected)
  assert np.abs(found["logits"] - found["logits_unbiased"]).max() > 0.1


def test_clean_differs_from_tf1_only_by_the_resize(weights, inception, images):
  clean = on_devices(weights, 1, images_per_device=2, resize="clean")
  # A constant image is unaffected by resizing.
  pair = np.concatenate([images[:1], np.full_like(images[:1], 77)])
  found, other = clean.features(pair), inception.features(pair)
  assert_close(found[1], other[1])
  assert np.abs(found[0] - other[0]).max() > 0.01 * np.abs(other[0]).max()
  assert clean.protocol["resize"] == "clean"
  assert (clean.name, inception.name) == ("inception_clean", "inception")
  assert inception.protocol["resize"] == "tf1"


def test_protocol_is_json_and_names_the_weights(weights, inception):
  assert json.loads(json.dumps(inception.protocol)) == inception.protocol
  assert inception.protocol["weights"] == weights.fingerprint
  assert inception.protocol["weights_source"] == "the rule"
  assert inception.protocol["feature_length"] == 2048


@pytest.mark.parametrize(
  "bad",
  [
    np.zeros((1, 8, 8, 3), np.float32),
    np.zeros((8, 8, 3), np.uint8),
    np.zeros((1, 3, 8, 8), np.uint8),
  ],
)
def test_images_of_other_shapes_and_dtypes_are_refused(inception, bad):
  with pytest.raises(SpecError, match=r"takes uint8 \[N, H, W, 1 or 3\]"):
    inception.features(bad)


def test_unknown_modes_and_taps_are_refused(weights, inception, images):
  with pytest.raises(SpecError, match="'bicubic' must be one of tf1, clean"):
    Inception(weights, resize="bicubic")
  with pytest.raises(SpecError, match="images_per_device=0"):
    Inception(weights, images_per_device=0)
  with pytest.raises(SpecError, match="tap 'pool3' is not one of 64, 192"):
    inception.taps(images, ("pool3",))


# The weights file in the cache.


def test_weights_are_read_back(weights, stored):
  found = inception_store.load(stored)
  assert (found.fingerprint, found.source) == (weights.fingerprint, "the rule")
  jax.tree.map(np.testing.assert_array_equal, found, weights)


def test_fingerprint_depends_on_every_value():
  arrays = {"a": np.zeros(3, "f4"), "b": np.zeros(2, "f4")}
  same = dict(reversed(arrays.items()))
  other = arrays | {"b": np.array([0, 1e-30], "f4")}
  first = inception_store.fingerprint(arrays)
  assert inception_store.fingerprint(same) == first
  assert inception_store.fingerprint(other) != first


def test_missing_weights_say_where_to_get_them(tmp_path, monkeypatch):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  with pytest.raises(SpecError) as refusal:
    inception_store.load()
  for part in (
    str(tmp_path / inception_store.FILE),
    "pt_inception-2015-12-05-6726825d.pth",
    "bigscale import --format=inception FILE",
  ):
    assert part in str(refusal.value)


def test_a_truncated_file_is_refused(stored, tmp_path):
  path = tmp_path / "cut.npz"
  shutil.copy(stored, path)
  os.truncate(path, os.path.getsize(path) // 2)
  with pytest.raises(SpecError, match=r"cut\.npz cannot be read .*--format"):
    inception_store.load(str(path))


def test_a_flipped_bit_is_refused(stored, tmp_path):
  path = tmp_path / "flipped.npz"
  shutil.copy(stored, path)
  with open(path, "r+b") as file:
    file.seek(os.path.getsize(path) // 2)
    byte = file.read(1)[0]
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte ^ 1]))
  with pytest.raises(SpecError, match=r"flipped\.npz cannot be read .*CRC"):
    inception_store.load(str(path))


@pytest.fixture(scope="module")
def entries(stored):
  with np.load(stored) as data:
    return dict(data)


def changed(path, entries, **changes) -> str:
  """Writes a file with these entries, some of them changed or omitted."""
  kept = {k: x for k, x in (entries | changes).items() if x is not None}
  np.savez(path, **kept)
  return str(path)


def test_changed_values_are_refused(entries, tmp_path):
  name = "params/fc/bias"
  path = changed(tmp_path / "w.npz", entries, **{name: entries[name] + 1})
  with pytest.raises(SpecError, match="damaged: its arrays have the finger"):
    inception_store.load(path)


@pytest.mark.parametrize(
  ("value", "message"),
  [
    (None, "missing params/fc/bias"),
    (np.zeros(1000, "f4"), r"float32 \[1000\], not float32 \[1008\]"),
    (np.zeros(1008), r"float64 \[1008\], not float32"),
    (np.full(1008, np.nan, "f4"), "NaN"),
  ],
)
def test_other_arrays_are_refused(entries, tmp_path, value, message):
  path = changed(tmp_path / "w.npz", entries, **{"params/fc/bias": value})
  with pytest.raises(SpecError, match=message) as refusal:
    inception_store.load(path)
  assert path in str(refusal.value)


def test_a_state_dict_must_be_imported_first(tmp_path):
  np.savez(tmp_path / "w.npz", **{"fc.bias": np.zeros(1008, "f4")})
  with pytest.raises(SpecError, match=r"--format=inception .*w\.npz"):
    inception_store.load(str(tmp_path / "w.npz"))


def test_a_cache_that_cannot_be_written_is_an_error(weights, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(SpecError, match="BIGSCALE_CACHE"):
    inception_store.save(weights, str(tmp_path / "file"))


# Importing.


def bigscale(*args: object) -> int:
  """Runs `bigscale import` in this process."""
  return main(["bigscale", "import", "--format=inception", *map(str, args)])


def test_import_writes_into_the_cache(
  tensors, weights, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  # pytorch-fid's file is from a PyTorch version that did not count batches.
  counters = [name for name in tensors if name.endswith("num_batches_tracked")]
  kept = {name: x for name, x in tensors.items() if name not in counters}
  assert len(counters) == 94
  file = tmp_path / "weights.npz"
  np.savez(file, **kept)
  assert bigscale(file) == 0
  assert weights.fingerprint in capsys.readouterr().out
  found = inception_store.load()
  assert found.fingerprint == weights.fingerprint
  assert found.source == f"weights.npz, SHA-256 {sha256(file)}"
  assert os.listdir(tmp_path / "cache") == [inception_store.FILE]


def test_import_refuses_torchvisions_weights(
  tensors, tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  other = {
    "fc.weight": np.zeros((1000, 2048), "f4"),
    "AuxLogits.fc.bias": np.zeros(1000, "f4"),
  }
  file = tmp_path / "w.npz"
  np.savez(file, **{n: x for n, x in tensors.items() if n != "fc.bias"} | other)
  assert bigscale(file) == 2
  said = capsys.readouterr().err
  for part in (
    "missing fc.bias (1008,)",
    "misshaped fc.weight (1000, 2048)",
    "extra AuxLogits.fc.bias (1000,)",
    "differs from torchvision's",
  ):
    assert part in said
  assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
  ("arguments", "parts"),
  [
    ((), ("no file was named", "--format=inception FILE\n")),
    (("a.npz", "b.npz"), ("a second file", "--format=inception")),
    (("a.npz", "--ema=b.npz"), ("--ema",)),
    (("nowhere.npz",), ("no file nowhere.npz",)),
  ],
)
def test_import_refuses(arguments, parts, capsys):
  assert bigscale(*arguments) == 2
  said = capsys.readouterr().err
  assert all(part in said for part in parts), said


def test_a_file_name_with_another_digest_is_refused(tmp_path):
  path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
  path.write_bytes(b"cut short")
  with pytest.raises(FileError, match=r"begins with 6726825d.* with [0-9a-f]"):
    interop.read_weights(path)


def test_a_pytorch_file_with_a_matching_digest_is_read(
  tensors, weights, tmp_path
):
  torch = pytest.importorskip("torch")
  plain = tmp_path / "state.pth"
  tree = {name: torch.from_numpy(x) for name, x in tensors.items()}
  torch.save(tree, plain)
  named = plain.rename(tmp_path / f"inception-{sha256(plain)[:8]}.pth")
  assert interop.read_weights(named).fingerprint == weights.fingerprint


def test_a_date_in_a_file_name_is_not_a_digest(tmp_path):
  path = tmp_path / "inception-2015-12-05.npz"
  np.savez(path, **{"fc.bias": np.zeros(1008, "f4")})
  with pytest.raises(TensorsError, match="missing Conv2d_1a"):
    interop.read_weights(path)
