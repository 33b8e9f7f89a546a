"""Published statistics: which files there are, and what is checked."""

import json
import pickle

import numpy as np
import pytest

from bigscale.interop import statistics
from bigscale.interop.files import FileError


def _moments(dimension=5, rows=40):
  features = np.random.default_rng(0).normal(size=(rows, dimension))
  return features.mean(0), np.cov(features, rowvar=False), features


def test_statistics_of_both_kinds(tmp_path):
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
  # StyleGAN divides by the count, numpy by one less.
  np.testing.assert_allclose(found.covariance, sigma * 39 / 40)


def test_statistics_are_written_in_float64_with_provenance(tmp_path):
  mu, sigma, _ = _moments()
  path = tmp_path / "a.npz"
  np.savez(path, mu=mu.astype("f4"), sigma=sigma.astype("f4"))
  out = tmp_path / "out"
  statistics.write_statistics(out, statistics.read_statistics(path), path)
  with np.load(out / "statistics.npz") as arrays:
    assert {k: arrays[k].dtype for k in arrays.files} == {
      "mean": np.float64,
      "covariance": np.float64,
    }
    np.testing.assert_allclose(arrays["covariance"], sigma, rtol=1e-5)
  said = json.loads((out / "statistics.json").read_text())
  assert said["source"] == "a.npz"
  assert said["dimension"] == 5
  assert len(said["sha256"]) == 64


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
def test_statistics_that_are_none(change, words, tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, **_broken(change))
  with pytest.raises(FileError, match=words):
    statistics.read_statistics(path)
