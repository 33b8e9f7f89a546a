"""Published statistics: file formats and checks."""

import json
import pickle

import numpy as np
import pytest

from bigscale.interop import statistics
from bigscale.interop.files import FileError


def _moments(dimension=5, rows=40):
  features = np.random.default_rng(0).normal(size=(rows, dimension))
  return features.mean(0), np.cov(features, rowvar=False), features


def test_both_formats_are_read(tmp_path):
  mu, sigma, features = _moments()
  npz = tmp_path / "VIRTUAL.npz"
  np.savez(npz, mu=mu, sigma=sigma, mu_s=mu, arr_0=np.array([{}], object))
  found = statistics.read_statistics(npz)
  np.testing.assert_array_equal(found.mean, mu)
  np.testing.assert_array_equal(found.covariance, sigma)
  assert found.count is None
  sums = {
    "num_items": len(features),
    "raw_mean": features.sum(0),
    "raw_cov": features.T @ features,
    "capture_all": False,
  }
  pkl = tmp_path / "stylegan.pkl"
  pkl.write_bytes(pickle.dumps(sums))
  with pytest.raises(FileError, match="unsafe_pickle"):
    statistics.read_statistics(pkl)
  found = statistics.read_statistics(pkl, unsafe_pickle=True)
  assert found.count == 40
  np.testing.assert_allclose(found.mean, mu)
  # StyleGAN divides by the count, numpy by the count minus one.
  np.testing.assert_allclose(found.covariance, sigma * 39 / 40)


def test_statistics_are_written_in_float64_with_provenance(tmp_path):
  mu, sigma, _ = _moments()
  path = tmp_path / "a.npz"
  np.savez(path, mu=mu.astype("f4"), sigma=sigma.astype("f4"))
  out = tmp_path / "out"
  statistics.write_statistics(out, statistics.read_statistics(path), path)
  with np.load(out / "statistics.npz") as arrays:
    assert {k: arrays[k].dtype for k in arrays.files} == {
      "mu": np.float64,
      "sigma": np.float64,
      "protocol": arrays["protocol"].dtype,
    }
    np.testing.assert_allclose(arrays["sigma"], sigma, rtol=1e-5)
  said = json.loads((out / "statistics.json").read_text())
  assert said["source"] == "a.npz"
  again = statistics.read_statistics(out / "statistics.npz")
  assert (again.source, again.count, again.resize) == ("a.npz", None, None)
  assert said["dimension"] == 5
  assert len(said["sha256"]) == 64


def test_written_statistics_are_read_back(tmp_path):
  mu, sigma, _ = _moments()
  ours = statistics.Statistics(
    mu, sigma, 40, "clean", "inception_clean", "abc", "textures at 8 px"
  )
  path = tmp_path / "ours.npz"
  path.write_text("an older one")
  statistics.save_statistics(path, ours)
  found = statistics.read_statistics(path)
  np.testing.assert_array_equal(found.covariance, sigma)
  assert found[2:] == ours[2:]
  assert [p.name for p in tmp_path.iterdir()] == ["ours.npz"]
  with pytest.raises(FileError, match="cannot be written"):
    statistics.save_statistics(tmp_path / "none" / "a.npz", ours)


@pytest.mark.parametrize(
  ("name", "more", "resize"),
  [
    ("VIRTUAL_x.npz", {"mu_s": np.zeros(3)}, "tf1"),
    ("cifar10_clean_train_32.npz", {}, "clean"),
    ("cifar10_legacy_tensorflow_train_32.npz", {}, "tf1"),
    ("cifar10_legacy_pytorch_train_32.npz", {}, "pytorch"),
    ("fid_stats.npz", {}, None),
    ("cleaned.npz", {}, None),
  ],
)
def test_resizing_of_known_files(name, more, resize, tmp_path):
  mu, sigma, _ = _moments()
  np.savez(tmp_path / name, mu=mu, sigma=sigma, **more)
  assert statistics.read_statistics(tmp_path / name).resize == resize


def test_stylegan_sums_in_an_npz(tmp_path):
  mu, _, features = _moments()
  path = tmp_path / "stylegan.npz"
  np.savez(
    path,
    num_items=len(features),
    raw_mean=features.sum(0),
    raw_cov=features.T @ features,
  )
  found = statistics.read_statistics(path)
  assert (found.count, found.resize) == (40, "tf1")
  np.testing.assert_allclose(found.mean, mu)


@pytest.mark.parametrize(
  ("protocol", "words"),
  [
    ("{", "cannot be read"),
    ("{}", "cannot be read.*'count'"),
    ("[]", "cannot be read"),
    (
      '{"count": "x", "resize": 1, "feature": null, "weights": null, '
      '"source": ""}',
      "no valid count, resize",
    ),
  ],
)
def test_invalid_protocols_are_refused(protocol, words, tmp_path):
  mu, sigma, _ = _moments()
  path = tmp_path / "a.npz"
  np.savez(path, mu=mu, sigma=sigma, protocol=np.array(protocol))
  with pytest.raises(FileError, match=words):
    statistics.read_statistics(path)


def _broken(change):
  mu, sigma, _ = _moments()
  return change(mu, sigma)


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda m, s: {"mu": m}, "of these it has: mu"),
    (lambda m, s: {"mu": m, "sigma": s[:4]}, r"\(5,\) and sigma \(4, 5\)"),
    (lambda m, s: {"mu": m[None], "sigma": s}, r"\(1, 5\)"),
    (lambda m, s: {"mu": m * np.nan, "sigma": s}, "NaN"),
    (lambda m, s: {"mu": m, "sigma": s + np.eye(5, k=1)}, "not symmetric"),
    (lambda m, s: {"mu": m, "sigma": s - 2 * np.eye(5)}, "eigenvalue -"),
    (lambda m, s: {"mu": m, "sigma": s.astype(str)}, "sigma is an array of"),
  ],
)
def test_invalid_statistics_are_refused(change, words, tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, **_broken(change))
  with pytest.raises(FileError, match=words):
    statistics.read_statistics(path)
