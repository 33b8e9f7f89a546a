import numpy as np
import pytest
from built_set import (
  NoiseSource,
  encoded,
  folder_of,
  noise,
  options,
  pixels,
  records_of,
)
from PIL import Image

from bigscale.data import images, recipe
from bigscale.data.build import build
from bigscale.data.manifest import DataError
from bigscale.data.openers import open_source


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_files_that_fit_are_kept_byte_for_byte(tmp_path, kind):
  ending = {"jpeg": "jpg", "png": "png"}[kind]
  other = {"jpeg": "png", "png": "jpg"}[kind]
  color, gray = noise(8, 0), noise(8, 1, 1)
  palette = Image.fromarray(color).quantize(8)
  files = {
    f"0.{ending}": encoded(color, kind.upper()),
    f"1.{ending}": encoded(gray, kind.upper()),
    f"2.{ending}": encoded(noise(9, 2), kind.upper()),
    f"3.{other}": encoded(color, {"jpg": "JPEG", "png": "PNG"}[other]),
    "4.gif": encoded(palette, "GIF"),
  }
  if kind == "png":
    files["5.png"] = encoded(palette, "PNG")
    files["6.png"] = encoded(Image.fromarray(color).convert("RGBA"), "PNG")
    files["7.png"] = encoded(
      Image.fromarray(color), "PNG", transparency=(1,) * 3
    )
  source = folder_of(tmp_path, files)
  made = options(resolution=8, encoding=kind, quality=80, shuffle=False)
  build({"train": source}, str(tmp_path / "set"), made)
  written = [record[4:] for record in records_of(tmp_path / "set")]
  kept = [
    name
    for name, data in zip(files, written[: len(files)], strict=True)
    if data == files[name]
  ]
  assert kept == [f"0.{ending}"]
  for index, data in enumerate(written):
    fitted = recipe.fit(source.read(index).image, made)
    if kind == "png":
      np.testing.assert_array_equal(images.decode(data), fitted)
    elif index:
      assert data == images.encode(fitted, "jpeg", 80)


def test_quality_changes_the_size(tmp_path):
  sizes = []
  for quality in (30, 95):
    path = str(tmp_path / str(quality))
    made = options(encoding="jpeg", quality=quality)
    build({"train": NoiseSource(10, side=32)}, path, made)
    sizes.append(sum(map(len, records_of(tmp_path / str(quality)))))
  assert 2 * sizes[0] < sizes[1]


def test_gray(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(3)
  build({"train": source}, path, options(channels=1, shuffle=False))
  expected = Image.fromarray(source.read(1).image).convert("L")
  got = open_source(path, "train").read(1).image
  np.testing.assert_array_equal(got[..., 0], np.asarray(expected))


class Flat(NoiseSource):
  def read(self, index):
    sample = super().read(index)
    return sample._replace(image=np.full_like(sample.image, 5))


def test_group_size(tmp_path):
  sizes = {}
  for group in (0, 1, 16):
    path = tmp_path / str(group)
    made = options(group_size=group, shuffle=False, records_per_shard=16)
    manifest_of = build({"train": Flat(16)}, str(path), made).manifest
    sizes[group] = manifest_of.made["compression"]
    assert pixels(path) == [np.full((8, 8, 3), 5, np.uint8).tobytes()] * 16
  assert sizes == {
    0: "group_size:1,uncompressed",
    1: "group_size:1,zstd",
    16: "group_size:16,zstd",
  }
  encoded_set = options(encoding="png", group_size=8)
  assert encoded_set.compression == "group_size:8,uncompressed"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"crop": "middle"}, "crop='middle' is not one of center, random, none"),
    ({"encoding": "bmp"}, "encoding='bmp'"),
    ({"channels": 4}, "channels=4 is not one of 1, 3"),
    ({"dedup": "near"}, "dedup='near'"),
    ({"quality": 0}, r"quality=0 must lie in \[1, 100\]"),
    ({"resolution": -1}, "resolution=-1"),
    ({"records_per_shard": 0}, "records_per_shard=0"),
    ({"workers": 0}, "workers=0"),
    ({"max_bad_fraction": 1.5}, "max_bad_fraction=1.5"),
    ({"name": ""}, "name='' must not be empty"),
  ],
)
def test_options_are_checked(change, message):
  with pytest.raises(DataError, match=message):
    options(**change)


def fit(image, **changes):
  return recipe.fit(image, options(**changes))


def test_center_crop_and_area():
  image = noise(8, 0, width=14)
  np.testing.assert_array_equal(fit(image, resolution=8), image[:, 3:11])
  tall = image.transpose(1, 0, 2)
  np.testing.assert_array_equal(fit(tall, resolution=8), tall[3:11])
  square = noise(12, 1)
  blocks = square.reshape(4, 3, 4, 3, 3).mean((1, 3))
  # Pillow rounds twice, once per axis.
  assert np.abs(fit(square, resolution=4) - blocks).max() < 1
  flat = np.full((5, 5, 1), 77, np.uint8)
  assert (fit(flat, resolution=16) == 77).all()
  assert fit(flat, resolution=16).shape == (16, 16, 3)
  larger = np.asarray(
    Image.fromarray(square).resize((16, 16), Image.Resampling.LANCZOS)
  )
  np.testing.assert_array_equal(fit(square, resolution=16), larger)


def test_random_crop_depends_on_pixels_and_seed():
  found = set()
  for seed in range(40):
    image = noise(8, seed, width=11)
    got = fit(image, resolution=8, crop="random")
    again = fit(image.copy(), resolution=8, crop="random")
    np.testing.assert_array_equal(got, again)
    (start,) = (i for i in range(4) if (image[:, i : i + 8] == got).all())
    found.add(start)
  assert found == {0, 1, 2, 3}
  image = noise(8, 0, width=64)
  crops = {
    fit(image, resolution=8, crop="random", seed=seed).tobytes()
    for seed in range(8)
  }
  assert len(crops) > 3


def test_without_crop_the_aspect_ratio_changes():
  image = np.zeros((8, 16, 3), np.uint8)
  image[:, 8:] = 200
  got = fit(image, resolution=8, crop="none")
  np.testing.assert_array_equal(got, image[:, ::2])
  mixed = fit(image, resolution=12, crop="none")
  assert mixed.shape == (12, 12, 3)
  np.testing.assert_array_equal(mixed[6, :, 0], [0] * 6 + [200] * 6)
