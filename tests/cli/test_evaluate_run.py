"""Further output of `bigscale evaluate --workdir`, with random weights."""

import functools
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bigscale.cli import common
from bigscale.cli.main import main
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source
from bigscale.metrics import opening, published
from tests.cli.test_sheets import run_of
from tests.e2e import tiny
from tests.metrics.test_published import Network

pytest_plugins = ["tests.metrics.conftest"]


@pytest.fixture(scope="module", autouse=True)
def one_load():
  """Loads checkpoints and compiles samplers once for all tests."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(common, "load", functools.cache(common.load))
    yield


@pytest.fixture(scope="module")
def run_dir(textures, tmp_path_factory):
  config = tiny.get_config()
  config.model.num_classes = 3
  config.data.source = textures
  config.loss.adversarial = "hinge"
  config.evaluate.num_samples = 60
  config.evaluate.batch_size = 25
  config.checkpoint.best = "fd_classifier"
  return run_of(config, tmp_path_factory.mktemp("hinge"))


@pytest.fixture
def scored(run_dir, monkeypatch, capsys, tmp_path):
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path))
  for module in (opening, published):
    monkeypatch.setattr(
      module, "open_network", lambda feature, cache_dir=None: Network(feature)
    )

  def run(*options):
    common = [f"--workdir={run_dir}", "--metrics=fid_inception"]
    code = main(["bigscale", "evaluate", *common, *options])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)

  return run


def test_d_and_the_neighbours_of_samples(scored, tmp_path):
  sheet = tmp_path / "sheet.png"
  found = scored("--d_accuracy", f"--neighbours={sheet}")
  d = found["d_accuracy"]
  counts = {name: d.pop(name) for name in list(d) if name.startswith("num_")}
  assert counts == {"num_samples": 60, "num_train": 60, "num_heldout": 60}
  assert d.keys() == {
    "train",
    "heldout",
    "samples",
    "train_above_samples",
    "heldout_above_samples",
  }
  assert all(0 <= share <= 1 for share in d.values())
  assert found["neighbours"]["num_train"] == 400
  with Image.open(sheet) as picture:
    assert picture.size == (7 * 64, 10 * 64)
  pace = found["throughput"]
  assert pace["drawing"]["images_per_second"] > 0
  assert pace["inception"]["images_per_second"] > 0


def test_logits_belong_to_the_right_split(scored, textures, monkeypatch):
  """A D that calls everything real is right only about real images."""
  from bigscale.train import discriminate

  seen, given = [], []
  logits = discriminate.TrainedDiscriminator.logits

  def sure(self, images, labels):
    seen.append(logits(self, images, labels))
    given.append({image.tobytes() for image in images})
    return np.full(len(images), 1.0)

  monkeypatch.setattr(discriminate.TrainedDiscriminator, "logits", sure)
  d = scored("--d_accuracy")["d_accuracy"]
  assert (d["train"], d["heldout"], d["samples"]) == (1, 1, 0)
  assert d["train_above_samples"] == 0.5
  assert [len(x) for x in seen] == [60, 60, 60]
  assert all(np.isfinite(x).all() and np.ptp(x) > 0 for x in seen)
  for images, split in zip(given, ("train", "heldout"), strict=False):
    source = open_source(textures, split)
    assert images <= {
      source.read(i).image.tobytes() for i in range(len(source))
    }


def test_without_flags_there_is_no_further_output(scored):
  found = scored()
  assert "d_accuracy" not in found
  assert "neighbours" not in found


def test_the_data_may_have_moved(scored, textures, tmp_path):
  moved = shutil.copytree(textures, tmp_path / "renamed")
  here, there = scored(), scored(f"--data={moved}")
  assert (here["data"], there["data"]) == ([str(textures)], [str(moved)])
  assert there["fid_inception"] == here["fid_inception"]
  assert there["reference"] == here["reference"]


def test_published_statistics_of_a_run(scored, tmp_path, run_dir):
  file = tmp_path / "textures.npz"
  by_data = scored(f"--write_statistics={file}")
  by_file = scored(f"--statistics={file}")
  assert by_file["fid_inception"] == pytest.approx(by_data["fid_inception"])
  assert not [key for key in by_file["reference"] if "floor" in key]


@pytest.fixture
def drawn(monkeypatch):
  """The labels of the samples of each evaluation."""
  from bigscale.sampling import sample

  seen = []
  usual = sample.sample

  def spied(*args, **options):
    seen.append(options["labels"])
    return usual(*args, **options)

  monkeypatch.setattr(sample, "sample", spied)
  return seen


def test_samples_have_the_class_proportions_of_the_reals(
  scored, drawn, textures
):
  found = scored()
  said = found["reference"]["protocol"]["labels"]
  assert said["rule"] == "reference"
  assert said["reals"].startswith("400 records of ")
  labels = open_source(textures, "train").labels()
  exact = 60 * np.bincount(labels) / len(labels)
  assert len(set(np.round(exact))) > 1
  counts = np.bincount(drawn[0])
  assert counts.sum() == 60
  assert (np.abs(counts - exact) < 1).all()
  assert (said["fewest_samples"], said["most_samples"]) == (
    counts.min(),
    counts.max(),
  )
  found = scored("--labels=uniform")
  assert found["reference"]["protocol"]["labels"]["rule"] == "uniform"
  np.testing.assert_array_equal(np.bincount(drawn[1]), [20, 20, 20])
  # Labels are in random order: sample i depends only on i.
  assert not np.array_equal(drawn[1], np.sort(drawn[1]))


def test_standing_statistics_have_the_same_class_proportions(
  scored, monkeypatch
):
  from bigscale.sampling import standing

  given = []
  usual = standing.standing_statistics

  def spied(*args, **options):
    given.append(options["labels"])
    return usual(*args, **options)

  monkeypatch.setattr(standing, "standing_statistics", spied)
  scored("--standing_batches=4")
  scored("--standing_batches=4", "--labels=uniform")
  by_reals, uniform = (np.bincount(labels) for labels in given)
  assert by_reals.sum() == uniform.sum() == 100
  assert np.ptp(uniform) <= 1 < np.ptp(by_reals)


def test_labels_with_published_statistics(
  scored, drawn, tmp_path, run_dir, capsys, monkeypatch
):
  file, bare = tmp_path / "textures.npz", tmp_path / "bare.npz"
  scored(f"--write_statistics={file}")
  with np.load(file) as arrays:
    np.savez(bare, mu=arrays["mu"], sigma=arrays["sigma"])
  own = scored(f"--statistics={file}")
  of_run = scored(f"--statistics={bare}")
  uniform = scored(f"--statistics={bare}", "--labels=uniform")
  np.testing.assert_array_equal(drawn[0], drawn[1])
  np.testing.assert_array_equal(drawn[0], drawn[2])
  assert np.ptp(np.bincount(drawn[3])) == 0
  said = [
    found["reference"]["protocol"]["labels"] for found in (own, of_run, uniform)
  ]
  assert [each["rule"] for each in said] == [
    "reference",
    "reference",
    "uniform",
  ]
  assert said[0]["reals"] == f"the images of {file}"
  protocol = own["reference"]["protocol"]
  assert (protocol["side"], protocol["channels"]) == (8, 1)
  assert f"as {bare} has no counts of its own" in said[1]["reals"]

  def gone(*args, **options):
    raise DataError("the data is not here")

  from bigscale.data import reading

  monkeypatch.setattr(reading, "open_data", gone)
  lost = scored(f"--statistics={bare}")
  assert lost["reference"]["protocol"]["labels"]["rule"] == "uniform"
  np.testing.assert_array_equal(drawn[4], drawn[3])


def test_channels_do_not_apply_to_a_run(run_dir, capsys):
  command = ["bigscale", "evaluate", f"--workdir={run_dir}", "--channels=3"]
  assert main(command) == 2
  assert "--channels=3 applies only to --images" in capsys.readouterr().err
