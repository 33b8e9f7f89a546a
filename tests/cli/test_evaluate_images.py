"""`bigscale evaluate --images` computes the same scores for any images."""

import functools
import json

import numpy as np
import pytest
from PIL import Image

from bigscale.cli.main import main
from bigscale.data.openers import open_source
from bigscale.metrics import classifier_store, opening, published
from tests.metrics.test_published import Network

METRICS = "fd_classifier,kid_classifier,pr_classifier,dc_classifier"
pytest_plugins = ["tests.metrics.conftest"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
  """A small classifier, cached for the tests of one process."""
  monkeypatch.setattr(classifier_store, "default_steps", lambda count: 60)
  cache = tmp_path_factory.getbasetemp() / "evaluate_images_cache"
  monkeypatch.setenv("BIGSCALE_CACHE", str(cache))


@pytest.fixture
def bare(capsys):
  def run(*options):
    code = main(["bigscale", "evaluate", *options])
    out, err = capsys.readouterr()
    return code, out, err

  return run


@pytest.fixture
def scored(textures, bare):
  return functools.partial(bare, f"--reference={textures}")


@pytest.fixture
def fake_inception(monkeypatch):
  for module in (opening, published):
    monkeypatch.setattr(
      module, "open_network", lambda feature, cache_dir=None: Network(feature)
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_images):
  """300 images as a folder of PNG files and as an .npz, and worse images."""
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


def test_a_folder_and_an_npz_of_the_same_images_score_alike(scored, saved):
  code, out, _ = scored(f"--images={saved}/folder", f"--metrics={METRICS}")
  assert code == 0
  folder = json.loads(out)
  assert folder["num_images"] == 300
  code, out, _ = scored(f"--images={saved}/same.npz", f"--metrics={METRICS}")
  npz = json.loads(out)
  # KID is left out, because its blocks depend on the order of the images.
  for name in ("fd", "precision", "recall", "coverage"):
    name = f"{name}_classifier"
    assert folder[name] == pytest.approx(npz[name], rel=1e-4)
  floor = folder["reference"]
  assert floor["precision_classifier_floor"] > 0.8
  assert folder["fd_classifier"] < floor["fd_classifier_blurred_reals"]
  network = floor["protocol"]["networks"]["classifier"]
  assert network["fingerprint"]
  assert "label_agreement" not in folder


def test_worse_images_have_worse_scores(scored, saved):
  scores = {}
  for name in ("same", "worse"):
    file = f"--images={saved}/{name}.npz"
    _, out, _ = scored(file, f"--metrics={METRICS}")
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
    (["--num=50"], ["num_samples=50", "65"]),
    (["--workdir=x"], ["--workdir=x", "one of them"]),
    (["--metrics=fid"], ["'fid'", "KIND_FEATURE"]),
    (["--metrics=intra_fd_classifier"], ["intra_fd", "classes"]),
    (["--metrics=fid_inception"], ["import", "inception"]),
    (["--metrics=ms_ssim"], ["8 x 8 px", "22 px"]),
    (["--d_accuracy"], ["--d_accuracy", "--workdir"]),
    (["--statistics=a.npz"], ["--statistics=a.npz", "one of them"]),
    (["--neighbours=a.jpg"], ["--neighbours=a.jpg", ".png"]),
    (["--neighbours=none/a.png"], ["there is no folder none"]),
    (["--neighbours_feature=inception"], ["--neighbours=FILE.png"]),
    (["--write_statistics=a.npy"], [".npz"]),
    (["--write_statistics=a.npz"], ["classifier", "--metrics=fid_inception"]),
    (
      ["--neighbours=a.png", "--neighbours_feature=inception"],
      ["inception", "(classifier)", "fd_inception"],
    ),
  ],
)
def test_invalid_flags_are_errors(scored, saved, options, words):
  code, out, err = scored(f"--images={saved}/same.npz", *options)
  assert code == 2
  assert not out
  for word in words:
    assert word in err


def test_images_need_a_reference(saved, bare):
  code, _, err = bare(f"--images={saved}/same.npz")
  assert code == 2
  assert "--reference" in err


def test_written_statistics_give_the_same_distance(
  scored, bare, saved, tmp_path, fake_inception
):
  file = tmp_path / "textures.npz"
  common = [f"--images={saved}/same.npz", "--metrics=fid_inception"]
  code, out, _ = scored(*common, f"--write_statistics={file}")
  assert code == 0
  by_source = json.loads(out)
  code, out, err = bare(*common, f"--statistics={file}")
  assert code == 0
  by_file = json.loads(out)
  assert by_file["fid_inception"] == pytest.approx(by_source["fid_inception"])
  assert by_file["throughput"].keys() == {"drawing", "inception", "scoring"}
  said = by_file["reference"]["protocol"]["statistics"]
  assert said["file"] == str(file)
  assert len(said["sha256"]) == 64
  assert said["source"].startswith("textures")
  assert said["source"].endswith(" at 8 px")
  assert {
    k: said[k] for k in ("num_reals", "resize", "feature", "weights")
  } == {
    "num_reals": 400,
    "resize": "tf1",
    "feature": "inception",
    "weights": "f00d",
  }
  assert "does not say" not in err
  # Other libraries can read the file.
  with np.load(file) as arrays:
    assert arrays["mu"].shape == (4,)
    assert arrays["sigma"].shape == (4, 4)


def test_statistics_that_do_not_fit_are_errors(
  bare, saved, tmp_path, fake_inception
):
  rows = np.random.default_rng(0).normal(size=(9, 3))
  moments = {"mu": rows.mean(0), "sigma": np.cov(rows, rowvar=False)}
  file = tmp_path / "three_clean_numbers.npz"
  np.savez(file, **moments)
  pickled = tmp_path / "a.pkl"
  pickled.write_bytes(b"never read")
  for option, words in (
    (f"--statistics={file}", "3 features, but inception has 4"),
    (f"--statistics={pickled}", f"--format=stats --unsafe_pickle {pickled}"),
    (f"--statistics={tmp_path}/none.npz", "there is no file"),
  ):
    code, out, err = bare(f"--images={saved}/same.npz", option)
    assert (code, out) == (2, "")
    assert words in err
  image = [f"--images={saved}/same.npz", f"--statistics={file}"]
  code, _, err = bare(*image, "--metrics=kid_inception")
  assert code == 2
  assert "kid_inception needs individual reals" in err
  code, _, err = bare(*image, "--neighbours=a.png")
  assert code == 2
  assert "--reference" in err


def test_a_sheet_of_neighbours(scored, saved, tmp_path, fake_inception):
  sheet = tmp_path / "sheet.png"
  code, out, _ = scored(
    f"--images={saved}/same.npz",
    "--metrics=fid_inception",
    f"--neighbours={sheet}",
  )
  assert code == 0
  said = json.loads(out)["neighbours"]
  assert (said["file"], said["feature"]) == (str(sheet), "inception")
  assert (said["num_samples"], said["num_train"]) == (300, 400)
  assert 0.5 < said["memorization_ratio"] < 2
  with Image.open(sheet) as picture:
    # 10 rows of a sample, a gap and 5 neighbours; 8 px scaled by 8.
    assert picture.size == (7 * 64, 10 * 64)
    gap = np.asarray(picture.convert("L"))[:, 64:128]
  assert (gap == 255).all()


def test_images_are_padded_like_reals_of_the_same_size(
  bare, fake_inception, tmp_path
):
  source = open_source("fashion_mnist", "heldout")
  images = np.stack([source.read(i).image for i in range(120)])
  framed = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
  found = {}
  for name, each in (("own", images), ("framed", framed)):
    np.savez(tmp_path / name, images=each)
    code, out, err = bare(
      f"--images={tmp_path}/{name}.npz",
      "--reference=fashion_mnist",
      "--resolution=32",
      "--metrics=fid_inception",
    )
    assert code == 0, err
    found[name] = json.loads(out)
  assert found["own"]["protocol"]["padding"] == 2
  assert found["framed"]["protocol"]["padding"] == 0
  assert found["own"]["fid_inception"] == pytest.approx(
    found["framed"]["fid_inception"], rel=1e-9
  )
  code, _, err = bare("--workdir=x", "--padding=2")
  assert code == 2
  assert "--padding=2 applies only to --images" in err
