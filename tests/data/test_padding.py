"""Images are padded only if requested, with or without a build."""

import numpy as np
import pytest
from built_set import encoded, noise, save
from image_files import write_zip

from bigscale.cli.main import main
from bigscale.data import manifest, pipeline
from bigscale.data.build import build
from bigscale.data.manifest import DataError
from bigscale.data.mixture import earlier_identity_of, identity_of
from bigscale.data.openers import open_source
from bigscale.data.reading import open_data, open_mix, read_many
from bigscale.data.recipe import BuildOptions
from bigscale.data.stream import SOURCE_FORM, check_same
from bigscale.spec import DataSpec

SHAPES = ((27, 27), (28, 28), (29, 29), (28, 40))
COUNT = 6
KINDS = ("png", "jpeg", "bmp", "zip", "npz", "shards")


def images_of(shape, channels):
  height, width = shape
  return [noise(height, i, channels, width) for i in range(COUNT)]


def place(kind, images, tmp_path):
  """Writes images as a source of a kind, and returns its path."""
  if kind == "npz":
    np.savez(tmp_path / "a.npz", images=np.stack(images))
    return str(tmp_path / "a.npz")
  kinds = {"zip": "PNG", "shards": "PNG"}
  ending = {"zip": "png", "shards": "png"}.get(kind, kind)
  files = {
    f"{i}.{ending}": encoded(image, kinds.get(kind, kind.upper()))
    for i, image in enumerate(images)
  }
  if kind == "zip":
    return write_zip(tmp_path / "a.zip", files)
  folder = save(tmp_path / "folder", files)
  if kind == "shards":
    folder = built(folder, tmp_path / "shards", 1, 0)
  return folder


def built(path, out, channels, padding, resolution=0):
  """Builds the train split of an input without loss, and returns its path."""
  options = BuildOptions(
    name="set",
    encoding="raw",
    channels=channels,
    resolution=resolution,
    padding=padding,
    shuffle=False,
  )
  build({"train": open_source(path, "train")}, str(out), options)
  return str(out)


def pixels(path, resolution, channels, padding=None):
  source = open_source(path, "train", padding)
  rows = range(len(source))
  return read_many(source, rows, resolution, channels).images


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_built_and_unbuilt_data_give_the_same_pixels(
  tmp_path, kind, channels, padding
):
  for number, shape in enumerate(SHAPES):
    folder = tmp_path / str(number)
    folder.mkdir()
    if kind == "shards" and channels == 3:
      continue  # These shards store gray images.
    path = place(kind, images_of(shape, channels), folder)
    kept = built(path, folder / "kept", channels, padding)
    for resolution in (14, 16, 28, 32, 64):
      expected = pixels(path, resolution, channels, padding)
      np.testing.assert_array_equal(
        pixels(kept, resolution, channels), expected, str((shape, resolution))
      )
      if resolution == min(shape) and padding:
        continue  # An error, tested below.
      resized = built(
        path, folder / str(resolution), channels, padding, resolution
      )
      np.testing.assert_array_equal(
        pixels(resized, resolution, channels),
        expected,
        str((shape, resolution)),
      )


@pytest.mark.parametrize("crop", ["center", "random", "none"])
def test_padding_without_a_resize_is_rejected(tmp_path, crop):
  path = place("png", images_of((28, 28), 1), tmp_path)
  options = BuildOptions(
    name="set", resolution=28, channels=1, padding=2, crop=crop
  )
  with pytest.raises(
    DataError, match=r"padding=2 has no effect .*resolution=28.*=0"
  ):
    build({"train": open_source(path, "train")}, str(tmp_path / "s"), options)


def test_the_command_builds_with_and_without_padding(tmp_path):
  path = place("png", images_of((28, 28), 1), tmp_path)
  sizes = {}
  for padding in (None, 2):
    out = str(tmp_path / str(padding))
    flags = [] if padding is None else [f"--padding={padding}"]
    command = ["bigscale", "data", "build", f"--input={path}", f"--out={out}"]
    options = ["--channels=1", "--encoding=raw", "--noshuffle", "--workers=1"]
    assert main([*command, *options, *flags]) == 0
    sizes[padding] = manifest.load(out).padding
    found = pixels(out, 32, 1)
    np.testing.assert_array_equal(found, pixels(path, 32, 1, padding))
    assert (found[:, :2] == 0).all() == (padding == 2)
  assert sizes == {None: 0, 2: 2}


def test_a_set_built_from_an_embedded_set_keeps_its_padding(tmp_path):
  options = BuildOptions(name="f", encoding="raw", channels=1, shuffle=False)
  source = open_source("fashion_mnist", "heldout")
  small = open_data(DataSpec(source="fashion_mnist", subset=20), "train")
  build({"train": small, "heldout": source}, str(tmp_path / "f"), options)
  again = open_source(str(tmp_path / "f"), "heldout")
  assert again.padding == source.padding == 2
  for side in (16, 28, 32):
    np.testing.assert_array_equal(
      read_many(again, range(20), side, 1).images,
      read_many(source, range(20), side, 1).images,
    )


def test_default_padding_of_embedded_sets():
  assert open_source("fashion_mnist", "train").padding == 2
  assert open_source("emoji", "train").padding == 0
  assert open_source("stacked:fashion_mnist", "train").padding == 2
  assert open_source("synthetic:9:28:2", "train").padding == 0


def frame_of(spec):
  """Returns the frame's pixels in training images."""
  stream = pipeline.make(
    spec,
    resolution=32,
    channels=3,
    num_classes=0,
    global_batch_size=16,
    batches_per_step=1,
    seed=0,
  )
  (images,) = next(stream).images
  stream.close()
  return images[:, :2]


def test_each_source_of_a_mixture_has_its_padding(tmp_path):
  parts = []
  for number, padding in enumerate((2, 0)):
    (tmp_path / str(number)).mkdir()
    path = place("npz", images_of((28, 28), 3), tmp_path / str(number))
    parts.append({"source": path, "share": 0.5, "padding": padding})
  from bigscale.spec.freeze import _freeze

  spec = _freeze(
    DataSpec, {"mixture": parts, "mixture_labels": "source"}, "data"
  )
  framed = (frame_of(spec) == 0).all((1, 2, 3))
  assert 2 <= framed.sum() <= 14
  whole = open_data(spec, "train")
  images, labels = read_many(whole, range(len(whole)), 32, 3)
  np.testing.assert_array_equal(
    (images[:, :2] == 0).all((1, 2, 3)), labels == 0
  )


def test_training_uses_the_padding_of_the_spec(tmp_path):
  path = place("png", images_of((28, 40), 3), tmp_path)
  assert frame_of(DataSpec(source=path)).any()
  assert not frame_of(DataSpec(source=path, padding=2)).any()


def test_identities_include_padding(tmp_path):
  path = place("png", images_of((28, 28), 1), tmp_path)
  assert (
    open_source(path, "train", 2).identity
    != open_source(path, "train").identity
    == open_source(path, "train", 0).identity
  )
  sets = [built(path, tmp_path / f"s{n}", 1, n) for n in (0, 2)]
  plain, framed = (open_source(each, "train") for each in sets)
  assert plain.identity != framed.identity
  # Before padding was a setting, this set was always padded.
  plain_before, framed_before = (
    manifest.load(s).identity("train") for s in sets
  )
  assert framed.earlier_identity == framed_before
  assert plain.earlier_identity != plain_before
  other = built(
    place("png", images_of((29, 29), 1), tmp_path / "o"), tmp_path / "s", 1, 0
  )
  before = manifest.load(other).identity("train")
  assert open_source(other, "train").earlier_identity == before


@pytest.mark.parametrize("padding", [2, 0])
def test_streams_of_earlier_versions_resume_with_equal_pixels(padding):
  """The embedded set of 28 px, which earlier versions padded by 2."""
  spec = DataSpec(source="fashion_mnist", padding=padding, classes=3)
  parts = open_mix(spec, "train")
  (source,) = parts.sources
  known = source.identity.replace(" padded 2", "")
  now, earlier = identity_of(*parts), earlier_identity_of(*parts)
  today = {"source_form": SOURCE_FORM}
  check_same({"source": now, **today}, now, earlier, spec)
  check_same({}, now, earlier, spec)
  if padding:
    check_same({"source": known}, now, earlier, spec)
  else:
    with pytest.raises(DataError, match='adding "padding": 2'):
      check_same({"source": known}, now, earlier, spec)
