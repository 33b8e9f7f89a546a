"""pytorch-pretrained-BigGAN's state dicts: equal images and spectral norm."""

import dataclasses

import numpy as np
import pytest
from plain_generators import hf_biggan_deep
from synthetic import assert_same, hf_deep, images, leaves, theirs, unit

from bigscale.interop import biggan_hf
from bigscale.interop.tensors import TensorsError
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.ops.spectral import flatten
from bigscale.spec import SpecError

_SPEC = BigganDeepSpec(
  resolution=64,
  num_classes=3,
  latent_dim=5,
  g_width=4,
  d_width=4,
  shared_dim=4,
  g_attention=(16,),
  num_singular_values=1,
)


@pytest.fixture(scope="module")
def imported():
  found, file = hf_deep(_SPEC)
  return found, file, biggan_hf.generator(_SPEC, file)


def test_images_match_the_original_code(imported):
  _, file, weights = imported
  latents = np.random.RandomState(1).normal(size=(2, 5)).astype("f4")
  labels = np.array([2, 0], "i4")
  expected = hf_biggan_deep(file, latents, labels)
  assert expected.std() > 0.1
  np.testing.assert_allclose(
    images(_SPEC, weights, latents, labels), expected, atol=2e-4
  )


def test_layouts_keep_every_entry(imported):
  found, _, weights = imported
  assert_same(weights, found)


def test_statistics_of_all_truncations_are_kept(imported):
  found, file, weights = imported
  table = biggan_hf.standing(_SPEC, file)
  assert set(table) == set(flatten(weights.batch_stats))
  sources = biggan_hf.g_sources(_SPEC)
  for path, rows in table.items():
    np.testing.assert_array_equal(rows, file[sources[path].name])
    np.testing.assert_array_equal(rows[50], found[path])
    assert (rows[0] != rows[50]).all()


def test_spectral_norm_divides_by_the_same_values(imported):
  _, file, weights = imported
  sources = biggan_hf.g_sources(_SPEC)
  assert len(weights.spectra) == 8 * 12 + 4 + 2
  for path, (u_ko, sigma_k) in weights.spectra.items():
    owner = sources[path].name.removesuffix("_orig")
    u, v = file[f"{owner}_u"], file[f"{owner}_v"]
    w_oi = file[f"{owner}_orig"].reshape(len(u), -1)
    # bigscale takes a step from its u, which must end at the file's v.
    stepped = unit(u_ko[0] @ w_oi)
    np.testing.assert_allclose(stepped, v, atol=1e-5, err_msg=path)
    np.testing.assert_allclose(u @ w_oi @ stepped, u @ w_oi @ v, rtol=1e-5)
    np.testing.assert_allclose(sigma_k, [u @ w_oi @ v], rtol=1e-6)


def test_missing_extra_and_misshaped_tensors_are_named():
  _, file = hf_deep(_SPEC)
  del file["generator.layers.5.conv_1.weight_v"]
  file["generator.surprise"] = np.zeros(3)
  file["generator.bn.running_vars"] = np.zeros((11, 8))
  with pytest.raises(TensorsError) as caught:
    biggan_hf.generator(_SPEC, file)
  message = str(caught.value)
  assert message.startswith("3 tensors do not match")
  assert "missing generator.layers.5.conv_1.weight_v (72,)" in message
  assert "extra generator.surprise (3,)" in message
  assert "misshaped generator.bn.running_vars (11, 8)" in message
  assert "the spec requires (51, 8)" in message


@pytest.mark.parametrize(
  "change",
  [
    {},
    {"g_attention": ()},
    {"g_attention": (8, 32), "num_classes": 7},
    {"g_depth": 3, "g_width": 8, "d_width": 8, "shared_dim": 6},
  ],
)
def test_spec_is_inferred(change):
  spec = dataclasses.replace(_SPEC, **change)
  file = theirs(biggan_hf.g_sources(spec), leaves(spec))
  assert biggan_hf.infer_spec(file) == spec


def test_attention_inside_a_stage_is_refused():
  _, file = hf_deep(_SPEC)
  moved = {}
  for name, x in file.items():
    name = name.replace("layers.3.", "layers.x.").replace(
      "layers.4.", "layers.3."
    )
    moved[name.replace("layers.x.", "layers.4.")] = x
  with pytest.raises(TensorsError, match="after 3 blocks is inside a stage"):
    biggan_hf.infer_spec(moved)


def test_files_of_other_formats_are_refused():
  with pytest.raises(TensorsError, match=r"embeddings\.weight is missing"):
    biggan_hf.infer_spec({"linear.weight": np.zeros((2, 2))})


def test_another_layout_is_refused():
  wrong = dataclasses.replace(_SPEC, layout="pytorch")
  with pytest.raises(SpecError, match="must be 'tfhub'"):
    biggan_hf.generator(wrong, {})
