"""Exported programs sample like the generator, without the library."""

import json
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from bigscale.interop import biggan_pytorch, export, r3gan
from bigscale.interop.recipes import recipe
from bigscale.models.make import make_model
from bigscale.models.r3gan import R3ganSpec
from bigscale.ops.images import to_uint8
from bigscale.spec import SpecError
from bigscale.train.state import Average
from bigscale.train.step import Codes, generate
from tests.interop import synthetic

_ROOT = Path(__file__).parents[2]
_EXAMPLE = _ROOT / "docs" / "run_exported.py"
_SMALL = R3ganSpec(
  resolution=8,
  num_classes=3,
  latent_dim=4,
  image_channels=1,
  widths=(8, 8),
  blocks=(1, 1),
  cardinality=(2, 2),
  class_embedding_dim=2,
)


def _average(weights) -> Average:
  return Average(*jax.tree.map(np.asarray, tuple(weights)))


@pytest.fixture(scope="module")
def small():
  # Weights of unit variance would saturate all pixels.
  leaves = {k: 0.4 * x for k, x in synthetic.leaves(_SMALL).items()}
  tensors = synthetic.theirs(r3gan.g_sources(_SMALL), leaves)
  weights = r3gan.generator(_SMALL, tensors)
  return recipe(_SMALL, None).spec, _average(weights)


@pytest.fixture(scope="module")
def biggan():
  """A model with batch norm, and spectral norm that is folded in."""
  with np.load(
    _ROOT / "tests" / "golden" / "biggan_32px_plain_f64.npz"
  ) as data:
    tensors = {
      key.removeprefix("G/"): data[key]
      for key in data.files
      if key.startswith("G/")
    }
  model = biggan_pytorch.infer_spec(tensors)
  weights = biggan_pytorch.generator(model, tensors)
  return recipe(model, None).spec, _average(weights)


def _sampled(spec, ema, latents, labels):
  """Returns the images of `build(spec).sample`."""
  model = make_model(spec.model, "cpu")
  images = jax.jit(
    lambda z, y: to_uint8(generate(model, spec, ema, Codes(z, y)))
  )(latents, labels)
  return np.asarray(images)


def _codes(spec, count):
  random = np.random.default_rng(3)
  latents = random.standard_normal((count, spec.model.latent_dim), np.float32)
  return latents, np.arange(count, dtype=np.int32) % spec.model.num_classes


def _assert_same_images(ours, theirs):
  """Allows rounding to move a value by one of 256 levels."""
  assert ours.dtype == theirs.dtype == np.uint8
  assert ours.shape == theirs.shape
  difference = np.abs(ours.astype(int) - theirs.astype(int))
  assert difference.max() <= 1
  assert np.mean(difference > 0) < 0.01
  assert len(np.unique(ours)) > 20, "the image has too little contrast"


def test_the_example_matches_sample(small, tmp_path, monkeypatch):
  spec, ema = small
  out, png = tmp_path / "g.hlo", tmp_path / "a.png"
  exported = export.export_generator(spec, ema, ["cpu", "tpu", "cuda"])
  assert export.write(out, exported, spec, step=7) == out.stat().st_size
  for count in (3, 5):
    monkeypatch.setattr(
      sys, "argv", ["run_exported.py", str(out), str(png), str(count)]
    )
    names = runpy.run_path(str(_EXAMPLE))
    latents, labels = names["latents"], names["labels"]
    assert labels.tolist() == [0, 1, 2, 0, 1][:count]
    _assert_same_images(names["images"], _sampled(spec, ema, latents, labels))
    with Image.open(png) as image:
      assert image.size == (8 * count, 8)
      first = np.asarray(image)[:, :8]
    np.testing.assert_array_equal(first, names["images"][0, ..., 0])


def test_cpu_only_export_uses_the_cpu_convolution(small):
  spec, ema = small
  alone, anywhere = (
    export.export_generator(spec, ema, platforms).mlir_module()
    for platforms in (["cpu"], ["cpu", "tpu"])
  )
  assert "feature_group_count = 2" in anywhere
  assert "feature_group_count = 2" not in alone


def test_spectral_norm_is_folded_in(biggan):
  spec, ema = biggan
  exported = export.export_generator(spec, ema, ["cpu"])
  codes = _codes(spec, 6)
  drawn = np.asarray(exported.call(*codes))
  _assert_same_images(drawn, _sampled(spec, ema, *codes))
  # A step of the power iteration would take 9 products per weight.
  products = exported.mlir_module().count("stablehlo.dot_general")
  assert 0 < products < 2 * len(ema.spectra)


def test_header_describes_the_inputs(small, tmp_path):
  spec, ema = small
  out = tmp_path / "g.hlo"
  exported = export.export_generator(spec, ema, ["cpu", "tpu"])
  export.write(out, exported, spec, step=7)
  header = json.loads((tmp_path / "g.hlo.json").read_text())
  assert header["step"] == 7
  assert header["platforms"] == ["cpu", "tpu"]
  assert (header["latent_dim"], header["num_classes"]) == (4, 3)
  assert (header["resolution"], header["image_channels"]) == (8, 1)
  assert header["versions"]["jax"] == jax.__version__
  assert [str(aval) for aval in exported.in_avals] == [
    "float32[b,4]",
    "int32[b]",
  ]
  # The file contains the weights, 4 bytes per parameter, and the program.
  weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(ema.params))
  assert weights < out.stat().st_size < weights + 60_000
  assert sorted(p.name for p in tmp_path.iterdir()) == ["g.hlo", "g.hlo.json"]


@pytest.mark.parametrize("platforms", [[], ["cpu", "abacus"]])
def test_invalid_platforms_are_refused(platforms, small):
  with pytest.raises(SpecError, match="cpu, tpu, cuda, rocm"):
    export.export_generator(*small, platforms)


def test_an_unwritable_file_is_refused(small, tmp_path):
  spec, ema = small
  exported = export.export_generator(spec, ema, ["cpu"])
  (tmp_path / "g.hlo").mkdir()
  with pytest.raises(SpecError, match="cannot be written"):
    export.write(tmp_path / "g.hlo", exported, spec, step=0)
  assert [p.name for p in tmp_path.iterdir()] == ["g.hlo"]


def test_the_example_is_short_and_does_not_import_bigscale():
  text = _EXAMPLE.read_text()
  assert len(text.splitlines()) <= 20
  assert "bigscale" not in text
