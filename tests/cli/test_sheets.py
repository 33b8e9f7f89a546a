"""Sheets and standing statistics of `sample`, with random weights."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest
from PIL import Image

from bigscale.cli import common
from bigscale.cli.main import main
from bigscale.configs import fashion_biggan
from bigscale.metrics.evaluator import Scored
from bigscale.metrics.looking import Asked
from bigscale.parallel.mesh import make_mesh
from bigscale.sampling import standing
from bigscale.spec import MeshSpec, from_config
from bigscale.train import folder as folders
from bigscale.train.build import build
from bigscale.train.checkpoint import Checkpoints
from tests.e2e import tiny


def run_of(config, path):
  """Creates a run with a checkpoint of step 0, without compilation."""
  spec = from_config(config)
  built = build(spec, make_mesh(MeshSpec(), jax.devices()[:1]))
  random = np.random.default_rng(0)

  def draw(leaf):
    if not np.issubdtype(leaf.dtype, np.floating):
      return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    # Vectors include variances, which must be positive.
    value = np.abs(random.standard_normal(leaf.shape)).astype(leaf.dtype)
    signs = random.choice([-1, 1], leaf.shape) if leaf.ndim > 1 else 1
    return jax.device_put((value * signs).astype(leaf.dtype), leaf.sharding)

  state = jax.tree.map(draw, built.abstract_state)
  folder = folders.create(path, spec, [])
  checkpoints = Checkpoints(folder.path, spec.checkpoint)
  checkpoints.save(0, state, {}, {})
  checkpoints.close()
  return path


@pytest.fixture(scope="module", autouse=True)
def one_load_a_run():
  """Loads checkpoints and compiles samplers once for all tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(common, "load", functools.cache(common.load))
    yield


@pytest.fixture(scope="module")
def r3gan(tmp_path_factory):
  return run_of(tiny.get_config(), tmp_path_factory.mktemp("r3gan"))


@pytest.fixture(scope="module")
def biggan(tmp_path_factory):
  config = fashion_biggan.get_test_config()
  config.model.g_width = config.model.d_width = 2
  config.model.num_singular_values = 1
  config.evaluate.batch_size = 4
  return run_of(config, tmp_path_factory.mktemp("biggan"))


def bigscale(*args):
  """Runs the program in this process."""
  return main(["bigscale", *map(str, args)])


def drawn(workdir, out, *options):
  """Samples to an .npz; returns its images, labels and columns."""
  where = [f"--workdir={workdir}", f"--out={out / 'sheet.npz'}"]
  assert bigscale("sample", *where, *options) == 0
  with np.load(out / "sheet.npz") as arrays:
    return arrays["images"], arrays["labels"], int(arrays["columns"])


def test_interpolation_between_latents(r3gan, tmp_path):
  options = ["--interpolate=latents", "--rows=3", "--columns=4", "--labels=3,7"]
  images, labels, columns = drawn(r3gan, tmp_path, *options)
  assert (images.shape, images.dtype) == ((12, 8, 8, 1), np.uint8)
  assert labels.tolist() == [3] * 4 + [7] * 4 + [3] * 4
  assert columns == 4
  straight, _, _ = drawn(r3gan, tmp_path, *options, "--path=linear")
  np.testing.assert_array_equal(straight[::4], images[::4])
  assert (straight[1::4] != images[1::4]).any()


def test_interpolation_between_classes(r3gan, tmp_path):
  """The ends of an interpolation have plain labels."""
  images, shares, columns = drawn(
    r3gan,
    tmp_path,
    "--interpolate=classes",
    "--labels=3,7,0",
    "--columns=4",
    "--same_latents",
  )
  assert images.shape == (8, 8, 8, 1)
  assert shares.shape == (8, 10)
  assert columns == 4
  ends = shares[[0, 3, 4, 7]].argmax(axis=1)
  assert ends.tolist() == [3, 7, 7, 0]
  # Both rows have the same latent, and share class 7.
  np.testing.assert_array_equal(images[3], images[4])
  assert (images[0] != images[1]).any()


def test_class_grid_in_rows_and_columns(r3gan, tmp_path):
  images, labels, columns = drawn(
    r3gan, tmp_path, "--class_grid=rows", "--columns=4"
  )
  assert labels.tolist() == [label for label in range(10) for _ in range(4)]
  across, names, wide = drawn(
    r3gan, tmp_path, "--class_grid=columns", "--rows=4"
  )
  assert (columns, wide) == (4, 10)
  assert names.tolist() == list(range(10)) * 4
  np.testing.assert_array_equal(
    across.reshape(4, 10, 8, 8, 1).swapaxes(0, 1),
    images.reshape(10, 4, 8, 8, 1),
  )


def test_many_classes_are_split_into_pages(r3gan, tmp_path, monkeypatch):
  command = importlib.import_module("bigscale.cli.sample")
  monkeypatch.setattr(command, "_CLASSES_PER_PAGE", 4)
  code = bigscale(
    "sample",
    f"--workdir={r3gan}",
    f"--out={tmp_path / 'sheet.png'}",
    "--class_grid=rows",
    "--columns=4",
  )
  assert code == 0
  names = [f"sheet-{page:02d}.png" for page in (1, 2, 3)]
  assert sorted(path.name for path in tmp_path.iterdir()) == names
  sizes = []
  for name in names:
    with Image.open(tmp_path / name) as sheet:
      sizes.append(sheet.size)
  # 8 px scaled by 8; 4, 4 and 2 classes.
  assert sizes == [(256, 256), (256, 256), (256, 128)]


def test_truncation_sweep(r3gan, tmp_path):
  images, labels, columns = drawn(
    r3gan, tmp_path, "--truncation_sweep=2,0.5,0.04", "--columns=4"
  )
  assert images.shape == (12, 8, 8, 1)
  assert labels.tolist() == [0, 1, 2, 3] * 3
  assert columns == 4
  one, _, _ = drawn(r3gan, tmp_path, "--truncation_sweep=0.5", "--columns=4")
  np.testing.assert_array_equal(one, images[4:8])


def test_standing_statistics_change_samples(biggan, tmp_path):
  options = ["--num=4", "--truncation=0.5"]
  running, _, _ = drawn(biggan, tmp_path, *options)
  options.append("--standing_batches=2")
  anew, _, _ = drawn(biggan, tmp_path, *options)
  again, _, _ = drawn(biggan, tmp_path, *options)
  assert (anew != running).any()
  np.testing.assert_array_equal(anew, again)


def test_each_truncation_has_its_own_standing_statistics(
  biggan, tmp_path, monkeypatch
):
  asked = []

  usual = standing.standing_statistics

  def recorded(*args, **options):
    asked.append(options["truncation"])
    return usual(*args, **options)

  monkeypatch.setattr(standing, "standing_statistics", recorded)
  options = ["--columns=4", "--standing_batches=2"]
  drawn(biggan, tmp_path, "--truncation_sweep=2,0.5", *options)
  assert asked == [2.0, 0.5]


def test_models_without_batch_norm_ignore_standing_batches(r3gan, tmp_path):
  plain, _, _ = drawn(r3gan, tmp_path, "--num=4")
  same, _, _ = drawn(r3gan, tmp_path, "--num=4", "--standing_batches=3")
  np.testing.assert_array_equal(plain, same)


def test_evaluate_uses_truncation_and_standing_statistics(
  biggan, monkeypatch, capsys
):
  """The evaluator gets truncated samples under standing statistics."""
  from bigscale.train import evaluation

  seen = []

  class Evaluator:
    def __init__(self):
      self.asked = Asked((), (), num_samples=4, num_classes=0)
      self.reference = {"floor": 1.0}
      self.throughput = {"drawing": {"seconds": 3.0}}

    def scored(self, batches):
      seen.append(np.concatenate([batch.images for batch in batches]))
      return Scored({"score": 2.0})

  monkeypatch.setattr(evaluation, "evaluator_of", lambda spec: Evaluator())
  options = [f"--workdir={biggan}", "--num=4"]
  assert bigscale("evaluate", *options) == 0
  options.append("--truncation=0.5")
  assert bigscale("evaluate", *options) == 0
  capsys.readouterr()
  assert bigscale("evaluate", *options, "--standing_batches=2") == 0
  plain, truncated, anew = seen
  assert (plain != truncated).any()
  assert (truncated != anew).any()
  assert json.loads(capsys.readouterr().out) == {
    "step": 0,
    "data": ["fashion_mnist"],
    "truncation": 0.5,
    "truncation_rule": "resample",
    "batch_norm": "standing ones of 2 batches",
    "standing_batches": 2,
    "score": 2.0,
    "throughput": {"drawing": {"seconds": 3.0}},
    "reference": {"floor": 1.0},
  }


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (
      ["--interpolate=latents", "--class_grid=rows"],
      ("--interpolate and --class_grid", "one of them"),
    ),
    (
      ["--truncation_sweep=1", "--truncation=0.5"],
      ("--truncation has no effect on --truncation_sweep",),
    ),
    (["--class_grid=rows", "--num=5"], ("--num", "--class_grid=rows")),
    (["--class_grid=rows", "--rows=5"], ("--rows", "use --columns")),
    (["--class_grid=columns", "--columns=5"], ("--columns", "use --rows")),
    (["--interpolate=classes", "--path=linear"], ("--path",)),
    (["--interpolate=latents", "--same_latents"], ("--same_latents",)),
    (["--rows=5"], ("--rows", "without a sheet", "--num")),
    (["--truncation_sweep=1,x"], ("--truncation_sweep=1,x", "numbers")),
    (["--truncation_sweep=1,0"], ("truncation=0.0", "positive")),
    (["--interpolate=classes", "--labels=3"], ("labels=[3]", "two or more")),
    (["--interpolate=classes", "--labels=3,10"], ("label 10", "0 to 9")),
    (["--interpolate=latents", "--columns=1"], ("columns=1", "2 columns")),
    (["--interpolate=faces"], ("faces", "latents")),
    (["--standing_batches=-1"], ("standing_batches", "-1")),
  ],
)
def test_invalid_flags(options, words, r3gan, tmp_path, capsys):
  out = f"--out={tmp_path / 'a.png'}"
  assert bigscale("sample", f"--workdir={r3gan}", out, *options) == 2
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err + captured.out
  for word in words:
    assert word in captured.err
  assert not list(tmp_path.iterdir())


def test_an_error_of_the_config_file_is_quoted(tmp_path, capsys):
  config = "--config=configs/biggan_table1.py:bs4096"
  assert bigscale("train", config, f"--workdir={tmp_path / 'run'}") == 2
  assert capsys.readouterr().err == (
    f"bigscale: {config}: 'bs4096' is not a preset of "
    "configs/biggan_table1.py; use one of sagan, bs512, bs1024, bs2048, ch96, "
    "shared, skipz, ortho, ch64\n"
  )
  assert not list(tmp_path.iterdir())
