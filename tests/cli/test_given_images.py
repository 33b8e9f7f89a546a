"""`bigscale evaluate --images` with unusual or unreadable images."""

import functools
import json
import shutil

import pytest
from PIL import Image

from bigscale.cli.main import main
from bigscale.metrics import opening
from tests.metrics.test_published import Network

pytest_plugins = ["tests.metrics.conftest"]

_COUNT = 120


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path_factory):
  """A fake Inception network, and a cache shared by all tests of a process."""
  monkeypatch.setattr(
    opening, "open_network", lambda feature, cache_dir=None: Network(feature)
  )
  cache = tmp_path_factory.getbasetemp() / "given_images_cache"
  monkeypatch.setenv("BIGSCALE_CACHE", str(cache))


@pytest.fixture(scope="module")
def usual(tmp_path_factory, make_images):
  """A folder of gray images with 8 px."""
  folder = tmp_path_factory.mktemp("given") / "usual"
  folder.mkdir()
  for number, image in enumerate(make_images(_COUNT, 9)[0]):
    Image.fromarray(image[..., 0]).save(folder / f"{number:03d}.png")
  return folder


@pytest.fixture
def folder(usual, tmp_path):
  """A copy of `usual` that a test may change."""
  return shutil.copytree(usual, tmp_path / "images")


@pytest.fixture
def scored(textures, capsys):
  def run(folder, *options, reference=textures):
    code = main(
      [
        "bigscale",
        "evaluate",
        f"--images={folder}",
        f"--reference={reference}",
        "--metrics=fid_inception",
        *options,
      ]
    )
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err

  return run


def change(file, how):
  with Image.open(file) as image:
    image.load()
  how(image).save(file)


def small(image):
  return image.resize((4, 4))


def coloured(image):
  return Image.merge("RGB", (image, image, image))


def test_the_protocol_has_size_channels_and_headers(scored, usual):
  code, found, _ = scored(usual)
  assert code == 0
  assert found["num_images"] == _COUNT
  assert found["unreadable"] == 0
  assert found["protocol"] == {
    "labels": "of no class: the images are given",
    "side": 8,
    "channels": 1,
    "padding": 0,
    "resized": 0,
    "recoloured": 0,
    "shapes": {"8 x 8 x 1": _COUNT},
    "headers_read": _COUNT,
  }
  reference = found["reference"]["protocol"]
  assert (reference["side"], reference["channels"]) == (8, 1)
  assert reference["images"]["train"]["read"] == 400
  assert reference["images"]["train"]["unreadable"] == 0


@pytest.mark.parametrize("place", [0, _COUNT - 1])
@pytest.mark.parametrize(
  ("how", "counted", "shape"),
  [(small, "resized", "4 x 4 x 1"), (coloured, "recoloured", "8 x 8 x 3")],
)
def test_one_unusual_image_does_not_change_the_format(
  scored, usual, folder, place, how, counted, shape
):
  change(folder / f"{place:03d}.png", how)
  code, found, err = scored(folder)
  assert code == 0
  protocol = found["protocol"]
  assert (protocol["side"], protocol["channels"]) == (8, 1)
  assert protocol[counted] == 1
  assert protocol["shapes"] == {"8 x 8 x 1": _COUNT - 1, shape: 1}
  assert f"{place:03d}.png" in err
  _, plain, _ = scored(usual)
  assert found["fid_inception"] == pytest.approx(
    plain["fid_inception"], rel=0.05, abs=20
  )


def test_images_of_two_formats_need_a_flag(scored, folder):
  for number in range(40):
    change(folder / f"{number:03d}.png", coloured)
  code, _, err = scored(folder)
  assert code == 2
  assert "different channels" in err
  assert "--channels=1" in err
  assert ".png" in err
  for channels, others in ((1, 40), (3, _COUNT - 40)):
    code, found, _ = scored(folder, f"--channels={channels}")
    assert code == 0
    assert found["protocol"]["channels"] == channels
    assert found["protocol"]["recoloured"] == others
  for number in range(40):
    change(folder / f"{number:03d}.png", small)
  code, _, err = scored(folder, "--channels=1")
  assert code == 2
  assert "--resolution=8" in err
  code, found, _ = scored(folder, "--channels=1", "--resolution=8")
  assert (code, found["protocol"]["resized"]) == (0, 40)


def truncate(folder, numbers):
  for number in numbers:
    with open(folder / f"{number:03d}.png", "r+b") as file:
      file.truncate(60)


def test_unreadable_images_are_skipped_and_counted(
  scored, folder, usual, tmp_path
):
  torn = range(0, _COUNT, 3)
  truncate(folder, torn)
  code, found, err = scored(folder)
  assert (code, found) == (2, None)
  assert "max_bad_fraction" in err
  assert "or more records" in err
  # Scoring skips unreadable images as if they were not in the folder.
  without = shutil.copytree(usual, tmp_path / "without")
  for number in torn:
    (without / f"{number:03d}.png").unlink()
  _, expected, _ = scored(without)
  for _ in range(2):
    code, found, err = scored(folder, "--max_bad_fraction=0.5")
    assert code == 0
    assert found["num_images"] == expected["num_images"] == _COUNT * 2 // 3
    assert found["unreadable"] == len(torn)
    assert ".png: it does not decode" in found["unreadable_example"]
    assert "40 of 120 images cannot be read" in err
    # Floors and baselines use the same number of images.
    assert found["reference"] == expected["reference"]
    assert found["fid_inception"] == pytest.approx(
      expected["fid_inception"], rel=1e-4
    )


def test_num_counts_only_readable_images(scored, folder):
  truncate(folder, [5])
  code, found, _ = scored(folder, "--num=100")
  assert (code, found["num_images"]) == (0, 100)


def test_no_image_can_be_read(scored, folder):
  truncate(folder, range(_COUNT))
  code, _, err = scored(folder, "--max_bad_fraction=1")
  assert code == 2
  assert "none of the 120 images" in err


def test_cached_results_report_unreadable_reals_too(
  scored, usual, folder, monkeypatch
):
  # The unreadable images are in both splits of the reference.
  torn = range(0, _COUNT, 4)
  truncate(folder, torn)
  code, _, err = scored(usual, reference=folder)
  assert code == 2
  assert "max_bad_fraction" in err
  allowed = functools.partial(
    scored, usual, "--max_bad_fraction=0.5", reference=folder
  )
  said = []
  for _ in range(2):
    code, found, err = allowed()
    assert code == 0
    met = found["reference"]["protocol"]["images"]
    assert met["train"]["unreadable"] + met["heldout"]["unreadable"] == 30
    assert met["train"]["read"] == found["reference"]["num_train"]
    assert ".png: it does not decode" in met["train"]["unreadable_example"]
    assert "were left out of statistics" in err or not said
    said.append(found["reference"])
    # The second result comes from the cache.
    monkeypatch.setattr("bigscale.metrics.reference._compute", None)
  assert said[0] == said[1]
  # The cache does not bypass the limit.
  code, _, err = scored(usual, reference=folder)
  assert code == 2
  assert "max_bad_fraction" in err


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (["--labels=uniform"], ["--labels=uniform", "--images="]),
    (["--channels=2"], ["--channels"]),
    (["--max_bad_fraction=1.5"], ["--max_bad_fraction"]),
  ],
)
def test_invalid_flags_are_errors(scored, usual, options, words):
  code, _, err = scored(usual, *options)
  assert code == 2
  for word in words:
    assert word in err
