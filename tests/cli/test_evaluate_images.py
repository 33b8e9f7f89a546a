"""`bigscale evaluate --images`: anybody's images, the same scores."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from bigscale.cli.main import main
from bigscale.metrics import classifier_store

METRICS = "fd_classifier,kid_classifier,pr_classifier,dc_classifier"
pytest_plugins = ["tests.metrics.conftest"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
  """A small classifier, kept between the tests of one process."""
  monkeypatch.setattr(classifier_store, "default_steps", lambda count: 60)
  cache = tmp_path_factory.getbasetemp() / "evaluate_images_cache"
  monkeypatch.setenv("BIGSCALE_CACHE", str(cache))


@pytest.fixture
def evaluate(textures, capsys):
  def run(*options):
    # Flags start fresh every time.
    sys.modules.pop("bigscale.cli.evaluate", None)
    code = main(["bigscale", "evaluate", f"--reference={textures}", *options])
    out, err = capsys.readouterr()
    return code, out, err

  return run


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_images):
  """The same 300 images as a folder of PNG and as an .npz, and worse ones."""
  directory = tmp_path_factory.mktemp("images")
  images, labels = make_images(300, 9)
  folder = directory / "folder"
  for number, (image, label) in enumerate(zip(images, labels, strict=True)):
    place = folder / str(label) / f"{number:03d}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0]).save(place)
  np.savez(directory / "same.npz", images)
  worse = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
  np.savez(directory / "worse.npz", images=worse)
  return directory


def test_a_folder_and_an_npz_of_the_same_images_score_alike(evaluate, saved):
  code, out, _ = evaluate(f"--images={saved}/folder", f"--metrics={METRICS}")
  assert code == 0
  folder = json.loads(out)
  assert folder["num_images"] == 300
  code, out, _ = evaluate(f"--images={saved}/same.npz", f"--metrics={METRICS}")
  npz = json.loads(out)
  # The order, and with it blocks of KID, differ.
  for name in ("fd", "precision", "recall", "coverage"):
    name = f"{name}_classifier"
    assert folder[name] == pytest.approx(npz[name], rel=1e-4)
  floor = folder["reference"]
  assert floor["precision_classifier_floor"] > 0.8
  assert folder["fd_classifier"] < floor["fd_classifier_blurred_reals"]
  network = floor["protocol"]["networks"]["classifier"]
  assert network["fingerprint"]
  assert "label_agreement" not in folder


def test_worse_images_score_worse_in_everything(evaluate, saved):
  scores = {}
  for name in ("same", "worse"):
    file = f"--images={saved}/{name}.npz"
    _, out, _ = evaluate(file, f"--metrics={METRICS}")
    scores[name] = json.loads(out)
  same, worse = scores["same"], scores["worse"]
  assert worse["fd_classifier"] > 2 * same["fd_classifier"]
  error = worse["kid_standard_error_classifier"]
  assert worse["kid_classifier"] > same["kid_classifier"] + 2 * error
  for name in ("precision", "coverage"):
    column = f"{name}_classifier"
    assert worse[column] < same[column]


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (["--num=301"], ["--num=301", "300 images"]),
    (["--num=50"], ["50 samples", "65"]),
    (["--workdir=x"], ["--workdir=x", "one of them"]),
    (["--metrics=fid"], ["'fid'", "KIND_FEATURE"]),
    (["--metrics=intra_fd_classifier"], ["intra_fd", "classes"]),
    (["--metrics=fid_inception"], ["import", "inception"]),
  ],
)
def test_a_wrong_request_says_what_and_why(evaluate, saved, options, words):
  code, out, err = evaluate(f"--images={saved}/same.npz", *options)
  assert code == 2
  assert not out
  for word in words:
    assert word in err


def test_images_need_a_reference(saved, capsys):
  sys.modules.pop("bigscale.cli.evaluate", None)
  code = main(["bigscale", "evaluate", f"--images={saved}/same.npz"])
  assert code == 2
  assert "--reference" in capsys.readouterr().err
