"""The official generators' variables: order, layout, versions, sizes."""

import dataclasses

import numpy as np
import pytest
from plain_generators import tfhub_biggan
from synthetic import assert_same, images, leaves, theirs

from bigscale.interop import biggan_tfhub
from bigscale.interop.tensors import TensorsError
from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.spec import SpecError

_SPEC = BigganSpec(
  resolution=64,
  num_classes=3,
  latent_dim=10,
  g_width=2,
  d_width=2,
  shared_dim=4,
  g_attention=(32,),
  num_singular_values=1,
)
_DEEP = BigganDeepSpec(
  resolution=64,
  num_classes=3,
  latent_dim=5,
  g_width=4,
  d_width=4,
  shared_dim=4,
  g_attention=(16,),
  num_singular_values=1,
)
_AVERAGED = ("w", "b", "gamma", "beta", "scale", "offset")


def _file(spec, suffix):
  """Returns leaves, and a file with the graph's names, shapes and averages."""
  found = leaves(spec)
  random = np.random.RandomState(7)
  file = {}
  for name, x in theirs(biggan_tfhub.g_sources(spec), found).items():
    leaf = name.rsplit("/", 1)[1]
    if leaf in ("b", "gamma", "beta") and not name.endswith("on/gamma"):
      x = x.reshape(1, 1, 1, -1)
    if leaf in _AVERAGED:
      file[f"module/{name}/{suffix}:0"] = x
      file[f"module/{name}:0"] = x + 1
    else:
      file[f"module/{name}:0"] = x
    if leaf == "w" and name != "linear/w":
      u = random.normal(size=(1, x.shape[-1]))
      u0 = (u / np.linalg.norm(u)).astype("f4")
      file[f"module/{name[:-1]}u0:0"] = u0
      file[f"module/{name[:-1]}u1:0"] = np.zeros((1, 1), "f4")
    if leaf == "accumulated_mean":
      counter = f"module/{name.replace('ed_mean', 'ion_counter')}:0"
      file[counter] = np.float32(200)
  return found, file


def test_biggan_images_match_the_plain_generator():
  found, file = _file(_SPEC, "ema_b999900")
  weights = biggan_tfhub.generator(_SPEC, file)
  random = np.random.RandomState(1)
  latents = random.normal(size=(2, 10)).astype("f4")
  labels = np.array([2, 0], "i4")
  expected = tfhub_biggan(file, latents, labels, blocks=4, attend_before=3)
  assert expected.std() > 0.1
  np.testing.assert_allclose(
    images(_SPEC, weights, latents, labels), expected, atol=2e-4
  )
  assert_same(weights, found)


def test_layout_of_first_layer_and_shared_embedding():
  _, file = _file(_SPEC, "ema_b999900")
  params = biggan_tfhub.generator(_SPEC, file).params
  # A latent vector times w is a map with the channels as innermost axis.
  w = file["module/Generator/G_Z/G_linear/w/ema_b999900:0"]
  assert w.shape == (2, 4 * 4 * 32)
  np.testing.assert_array_equal(params["linear"]["kernel"], w)
  # A one-hot label times w is a row.
  table = file["module/linear/w/ema_b999900:0"]
  np.testing.assert_array_equal(params["shared"]["embedding"], table)
  # The file's condition is [z_i, y], bigscale's is [y, z_i]; z_i has 2 entries.
  gain = file["module/Generator/GBlock_1/HyperBN_1/gamma/w/ema_b999900:0"]
  ours = params["block1"]["norm2"]["gain"]["kernel"]
  np.testing.assert_array_equal(ours[:4], gain[2:])
  np.testing.assert_array_equal(ours[4:], gain[:2])


def _stacked_file():
  """Returns BigGAN-deep's file with the graph's stacks of statistics."""
  found, file = _file(_DEEP, "ema_0.9999")
  norms = [f"block{i}/norm{j}" for i in range(8) for j in range(1, 5)]
  stacked = {name: x for name, x in file.items() if "accumul" not in name}
  table = {}
  for i, norm in enumerate([*norms, "output_norm"]):
    for place, which in ((1, "mean"), (3, "var")):
      path = f"{norm}/norm/{which}"
      steps = np.arange(50, -1, -1, dtype="f4")[:, None]
      table[path] = found[path] + steps
      stacked[f"module_apply_default/stack_{5 * i + place}:0"] = table[path]
  return found, stacked, table


def test_deep_statistics_cover_all_truncations():
  found, stacked, table = _stacked_file()
  assert_same(biggan_tfhub.generator(_DEEP, stacked), found)
  standing = biggan_tfhub.standing(_DEEP, stacked)
  assert set(standing) == set(table)
  for path, rows in table.items():
    np.testing.assert_array_equal(standing[path], rows, err_msg=path)


def test_stacks_of_another_number_of_truncations_are_refused():
  _, stacked, _ = _stacked_file()
  stacked["module_apply_default/stack_6:0"] = np.zeros((50, 16), "f4")
  with pytest.raises(TensorsError, match=r"stack_6 \(50, 16\) must contain"):
    biggan_tfhub.generator(_DEEP, stacked)


def test_a_missing_stack_is_named():
  _, stacked, _ = _stacked_file()
  _, file = _file(_DEEP, "ema_0.9999")
  name = "Generator/GBlock/BatchNorm_1/accumulated_mean"
  stacked[name] = file[f"module/{name}:0"]
  del stacked["module_apply_default/stack_6:0"]
  biggan_tfhub.generator(_DEEP, stacked)
  with pytest.raises(TensorsError, match=f"missing the stack of {name}"):
    biggan_tfhub.standing(_DEEP, stacked)


@pytest.mark.parametrize("spec", [_SPEC, _DEEP], ids=["biggan", "deep"])
def test_statistics_of_one_truncation_give_no_table(spec):
  _, file = _file(spec, "ema_b999900")
  assert biggan_tfhub.standing(spec, file) is None


def test_raw_weights_are_used_without_averages():
  found, file = _file(_SPEC, "ema_b999900")
  raw = {name: x for name, x in file.items() if "ema" not in name}
  got = biggan_tfhub.generator(_SPEC, raw).params
  np.testing.assert_allclose(
    got["to_rgb"]["kernel"], found["to_rgb/kernel"] + 1, rtol=1e-6
  )


def test_missing_extra_and_misshaped_variables_are_named():
  _, file = _file(_DEEP, "ema_0.9999")
  del file["module/Generator/GBlock/BatchNorm_2/offset/u0:0"]
  file["module/Generator/surprise:0"] = np.zeros(3)
  file["module/linear/w/ema_0.9999:0"] = np.zeros((3, 5))
  with pytest.raises(TensorsError) as caught:
    biggan_tfhub.generator(_DEEP, file)
  message = str(caught.value)
  assert message.startswith("3 tensors do not match")
  assert "missing Generator/GBlock/BatchNorm_2/offset/u0 (1, 16)" in message
  assert "extra Generator/surprise (3,)" in message
  assert "misshaped linear/w (3, 5), the spec requires (3, 4)" in message


@pytest.mark.parametrize("spec", [_SPEC, _DEEP], ids=["biggan", "deep"])
def test_spec_is_inferred(spec):
  _, file = _file(spec, "ema_b999900")
  assert biggan_tfhub.infer_spec(file) == spec


def test_files_of_other_formats_are_refused():
  with pytest.raises(TensorsError, match="blocks with no channels"):
    biggan_tfhub.infer_spec({"conv1.weight": np.zeros((2, 2))})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_singular_values": 3}, "num_singular_values=3 must be 1"),
    ({"shared_dim": 0}, "shared_dim=0 must be positive"),
    ({"hierarchical": False}, "hierarchical=False"),
    ({"g_attention": (16, 32)}, "more than one resolution"),
  ],
)
def test_unpublished_specs_are_refused(change, message):
  with pytest.raises(SpecError, match=message):
    biggan_tfhub.generator(dataclasses.replace(_SPEC, **change), {})
