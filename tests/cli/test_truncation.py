"""Truncation of imported weights follows the authors' rule."""

import contextlib
import dataclasses
import functools
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from bigscale.cli import common, truncation
from bigscale.cli.flags import Flags
from bigscale.cli.main import main
from bigscale.interop import assemble, export
from bigscale.models.biggan_deep import BigganDeepSpec
from bigscale.parallel import fingerprint
from bigscale.sampling import latents
from bigscale.spec import SamplingSpec
from bigscale.train.init_from import read_start
from bigscale.train.state import init_state
from tests.interop import synthetic
from tests.interop.plain_generators import hf_biggan_deep

_MODEL = BigganDeepSpec(
  resolution=64,
  num_classes=3,
  latent_dim=5,
  g_width=4,
  d_width=4,
  shared_dim=4,
  g_depth=1,
  g_attention=(),
  num_singular_values=1,
)
_COUNT = 3


@pytest.fixture(scope="module", autouse=True)
def quick():
  """Avoids compilation that the tests do not need.

  A run is loaded and its sampler compiled once. D, which is not in the files,
  is zero instead of randomly initialized. Checkpoints have no fingerprints.
  """

  def zeros(model, spec):
    state = init_state(model, spec)
    return jax.tree.map(jnp.zeros_like, state)

  jax.config.update("jax_disable_most_optimizations", True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(common, "load", functools.cache(common.load))
    patch.setattr(assemble, "init_state", zeros)
    patch.setattr(fingerprint, "fingerprints", lambda state: {})
    yield
  jax.config.update("jax_disable_most_optimizations", False)


def bigscale(*args):
  """Runs the program in this process."""
  return main(["bigscale", *map(str, args)])


@pytest.fixture(scope="module")
def tensors():
  return synthetic.hf_deep(_MODEL)[1]


@pytest.fixture(scope="module")
def imported(tensors, tmp_path_factory):
  """An imported BigGAN-deep in the published layout, and the output."""
  folder = tmp_path_factory.mktemp("deep")
  np.savez(folder / "G.npz", **tensors)
  where = [folder / "G.npz", f"--out={folder / 'run'}", "--source=emoji"]
  said = io.StringIO()
  with contextlib.redirect_stdout(said):
    assert bigscale("import", "--format=biggan-hf", *where) == 0
  return folder / "run", said.getvalue()


@pytest.fixture(scope="module")
def run(imported):
  return imported[0]


def drawn(run, out, *options):
  """Samples to an .npz and returns its arrays."""
  where = [f"--workdir={run}", f"--num={_COUNT}", f"--out={out / 'a.npz'}"]
  assert bigscale("sample", *where, *options) == 0
  with np.load(out / "a.npz") as arrays:
    return dict(arrays)


def theirs(tensors, labels, truncation, rule, at):
  """Returns the images of the PyTorch port, with statistics of `at`."""
  key = jax.random.fold_in(jax.random.key(0), 0)
  z = np.asarray(latents.draw(key, _COUNT, _MODEL, truncation, rule))
  images = hf_biggan_deep(tensors, z, labels, at, depth=1)
  assert images.std() > 0.1
  return np.clip(np.round(127.5 * (images + 1)), 0, 255)


def assert_same_images(ours, theirs):
  """Checks that few values differ, and by at most 1 of 256 levels."""
  away = np.abs(ours.astype(int) - theirs)
  assert away.max() <= 1
  assert np.mean(away > 0) < 0.02


@pytest.mark.parametrize(
  ("options", "truncation", "rule", "at"),
  [
    # The authors' rule, at a row of the table and between two rows.
    (["--truncation=0.4"], 0.4, "scale", 0.4),
    (["--truncation=0.405"], 0.405, "scale", 0.405),
    # Statistics of latents with the same standard deviation: 0.22848 / 0.87963.
    (
      ["--truncation=0.4", "--truncation_rule=resample"],
      0.4,
      "resample",
      0.25974944,
    ),
    ([], None, "scale", 1.0),
  ],
)
def test_images_equal_those_of_the_port(
  options, truncation, rule, at, run, tensors, tmp_path
):
  got = drawn(run, tmp_path, *options)
  expected = theirs(tensors, got["labels"], truncation, rule, at)
  assert_same_images(got["images"], expected)
  assert got["truncation_rule"] == rule
  np.testing.assert_array_equal(got["truncation"], truncation or np.nan)
  assert f"published ones of truncation {at:.4g}" in str(got["batch_norm"])


def test_an_import_prints_its_statistics_and_rule(imported):
  run, said = imported
  spec = json.loads((run / "spec.json").read_text())["spec"]
  assert spec["sampling"] == {"truncation_rule": "scale"}
  assert "statistics:    of 51 truncations from 0 to 1" in said
  assert "--truncation=T draws T * truncnorm(-2, 2)" in said


def test_each_row_of_a_sweep_has_its_own_statistics(run, tensors, tmp_path):
  got = drawn_sweep(run, tmp_path / "a.npz")
  np.testing.assert_array_equal(got["truncation"], [1.0, 0.1])
  assert got["batch_norm"].tolist() == [
    f"published ones of truncation {at} under the rule scale" for at in (1, 0.1)
  ]
  key = jax.random.fold_in(jax.random.key(0), 0)
  z = np.asarray(latents.draw(key, _COUNT, _MODEL, 0.1, "scale"))
  images = hf_biggan_deep(tensors, z, got["labels"][_COUNT:], 0.1, depth=1)
  assert_same_images(got["images"][_COUNT:], np.round(127.5 * (images + 1)))
  drawn_sweep(run, tmp_path / "a.png")
  with Image.open(tmp_path / "a.png") as image:
    assert image.text["truncation"] == "[1.0, 0.1]"
    assert image.text["truncation_rule"] == "scale"
    assert image.text["step"] == "0"


def drawn_sweep(run, out):
  options = ["--truncation_sweep=1,0.1", f"--columns={_COUNT}", f"--out={out}"]
  assert bigscale("sample", f"--workdir={run}", *options) == 0
  if out.suffix == ".png":
    return None
  with np.load(out) as arrays:
    return dict(arrays)


def test_an_export_contains_and_names_the_statistics(
  run, tensors, tmp_path, monkeypatch
):
  held = []

  def recorded(spec, ema, platforms):
    held.append(ema.batch_stats["output_norm"]["norm"])
    return made(spec, ema, platforms)

  made = export.export_generator
  monkeypatch.setattr(export, "export_generator", recorded)
  out = tmp_path / "g.hlo"
  options = ["--truncation=0.4", "--platforms=cpu", f"--out={out}"]
  assert bigscale("export", f"--workdir={run}", *options) == 0
  header = json.loads(Path(f"{out}.json").read_text())
  assert header["latents"] == {"bound": 2.0, "scale": 0.4}
  assert (header["truncation"], header["truncation_rule"]) == (0.4, "scale")
  assert "published ones of truncation 0.4 " in header["batch_norm"]
  for leaf, name in (("mean", "running_means"), ("var", "running_vars")):
    expected = tensors[f"generator.bn.{name}"][20]
    np.testing.assert_array_equal(held[0][leaf], expected)


def test_a_run_that_starts_from_an_import_notes_the_statistics(run):
  trained = common.load(str(run), None)
  start = read_start(trained.built, run)
  assert "training starts from 1" in start.note()["statistics"]
  assert start.note()["run"] == str(run)


def test_later_checkpoints_do_not_use_the_published_statistics(run, tmp_path):
  """The table belongs to the published weights."""
  trained = common.load(str(run), None)._replace(imported={}, step=7)
  values = Flags()
  truncation.define_flags(values)
  values(["bigscale"])
  found = truncation.under(trained, 0.4, values)
  assert found.ema is trained.ema
  assert found.protocol["batch_norm"] == "running ones of training"
  assert truncation.sentence(found.protocol) == (
    "truncation 0.4 by the rule scale; batch norm statistics: running ones of "
    "training"
  )


def test_the_rule_comes_from_the_flag_the_spec_or_the_authors(run):
  trained = common.load(str(run), None)
  unsaid = dataclasses.replace(trained.spec, sampling=SamplingSpec())
  # An earlier version imported the weights and wrote no rule.
  older = trained._replace(spec=unsaid)
  own = older._replace(imported={})
  assert truncation.rule_of(trained, "resample") == "resample"
  assert truncation.rule_of(trained, None) == "scale"
  assert truncation.rule_of(older, None) == "scale"
  assert truncation.rule_of(own, None) == "resample"


def refused(capsys, run, tmp_path, *options):
  capsys.readouterr()
  out = f"--out={tmp_path / 'a.png'}"
  assert bigscale("sample", f"--workdir={run}", out, *options) == 2
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err + captured.out
  assert not (tmp_path / "a.png").exists()
  return captured.err


def test_a_truncation_out_of_range_is_an_error(run, tmp_path, capsys):
  message = refused(capsys, run, tmp_path, "--truncation=1.5")
  assert "truncation=1.5 must lie in (0, 1]" in message
  message = refused(capsys, run, tmp_path, "--truncation_sweep=1,2")
  assert "truncation=2.0 must lie in (0, 1]" in message
  message = refused(capsys, run, tmp_path, "--truncation=nan")
  assert "must be positive" in message


def test_a_changed_table_is_an_error(run, tmp_path, capsys):
  path = run / "standing_statistics.npz"
  whole = path.read_bytes()
  try:
    path.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
    message = refused(capsys, run, tmp_path, "--truncation=0.4")
    assert "standing_statistics.npz was changed" in message
    path.unlink()
    message = refused(capsys, run, tmp_path, "--truncation=0.4")
    assert "standing_statistics.npz is missing" in message
    assert "--standing_batches=100" in message
  finally:
    path.write_bytes(whole)
