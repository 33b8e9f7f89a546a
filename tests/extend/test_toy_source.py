"""A data source outside the package, added as docs/reference/data.md says."""

import itertools
import pathlib
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import toy_source

from bigscale.data import pipeline, reading
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import DataError, EmptySplitError
from bigscale.data.openers import open_source
from bigscale.data.sources import BadRecordError, Record
from bigscale.spec import DataSpec, SourceSpec

RECORDS = 200


@pytest.fixture
def folder(tmp_path):
  """Writes 4 x 4 images that differ from each other."""
  images = np.random.default_rng(0).integers(0, 256, (RECORDS, 4, 4, 3))
  place = tmp_path / "toy"
  place.mkdir()
  np.save(place / "images.npy", images.astype(np.uint8))
  np.save(place / "labels.npy", np.arange(RECORDS) % 3)
  return str(place)


def stream_of(source, **settings):
  return pipeline.make(
    DataSpec(source=source, flip=True, **settings),
    resolution=4,
    channels=3,
    num_classes=3,
    global_batch_size=8,
    batches_per_step=2,
    seed=0,
  )


def assert_same(found, expected):
  for a, b in zip(found, expected, strict=True):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)


def test_splits_have_different_images(folder):
  train, heldout = (
    open_source(f"toy_source:Toy:{folder}", split)
    for split in ("train", "heldout")
  )
  assert len(train) + len(heldout) == RECORDS
  assert min(len(train), len(heldout)) > 0
  seen = {train.read(i).image.tobytes() for i in range(len(train))}
  assert not seen & {heldout.read(i).image.tobytes() for i in range(5)}
  assert repr(train) == "Toy(toy/train)"
  assert open_source(f"toy_source:Toy:{folder}", "train", 2).padding == 2


def test_a_stream_resumes_at_its_position(folder):
  name = f"toy_source:Toy:{folder}"
  stream = stream_of(name)
  first = list(itertools.islice(stream, 4))
  state = stream.get_state()
  rest = list(itertools.islice(stream, 20))
  stream.close()
  assert first[0].images.shape == (2, 8, 4, 4, 3)
  again = stream_of(name, workers=1)
  again.set_state(state)
  assert_same(itertools.islice(again, 20), rest)
  again.close()


def test_the_identity_depends_on_the_content(folder, tmp_path):
  moved = str(tmp_path / "moved")
  shutil.copytree(folder, moved)
  before = open_source(f"toy_source:Toy:{folder}", "train").identity
  assert open_source(f"toy_source:Toy:{moved}", "train").identity == before
  images = np.load(f"{moved}/images.npy")
  images[1, 0, 0, 0] ^= 1
  np.save(f"{moved}/images.npy", images)
  changed = stream_of(f"toy_source:Toy:{moved}")
  state = stream_of(f"toy_source:Toy:{folder}").get_state()
  with pytest.raises(DataError, match="the data changed"):
    changed.set_state(state)


def test_it_works_like_other_sources(folder):
  name = f"toy_source:Toy:{folder}"
  inputs = open_inputs(name)
  assert [*inputs] == ["train", "heldout"]
  part = reading.open_data(DataSpec(source=name, subset=20, classes=2), "train")
  assert (len(part), part.num_classes) == (20, 2)
  half = SourceSpec(source=name, share=0.5)
  other = SourceSpec(source="synthetic:30:4:2", share=0.5)
  mixed = reading.open_data(DataSpec(mixture=(half, other)), "train")
  assert mixed.num_classes == 5


class Lazy(toy_source.Toy):
  content = toy_source.Source.content


class Nameless(toy_source.Toy):
  def __init__(self, folder, split):
    super().__init__(folder, split)
    del self.class_names


class Blind(toy_source.Toy):
  read = toy_source.Source.read


class Float(toy_source.Toy):
  def read(self, index):
    return Record(np.zeros((4, 4, 3), np.float32), (0,))


class Planar(toy_source.Toy):
  def read(self, index):
    return Record(np.zeros((3, 4, 4), np.uint8), (0,))


class Mislabelled(toy_source.Toy):
  def read(self, index):
    return Record(np.zeros((4, 4, 3), np.uint8), (3,))


class Bare(toy_source.Toy):
  def read(self, index):
    return np.zeros((4, 4, 3), np.uint8)


class Empty(toy_source.Toy):
  def __len__(self):
    return 0


class Locked(toy_source.Toy):
  def __init__(self, folder, split):
    super().__init__(folder, split)
    self._lock = threading.Lock()


class Undivided(toy_source.Toy):
  def __init__(self, folder, split):
    del split
    super().__init__(folder, "train")


def array(folder, split):
  return np.zeros((9, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("Lazy", "lacks content; add a method"),
    ("Nameless", "lacks class_names; set it"),
    ("Blind", "lacks read; add what is missing to Blind"),
    ("array", r"returns ndarray, which is not a Source; derive it from"),
    ("Float", r"reads an image of float32 \(4, 4, 3\); it must be uint8"),
    ("Planar", r"reads an image of uint8 \(3, 4, 4\); it must be uint8"),
    ("Mislabelled", r"reads labels \(3,\); they must be in \[0, 3\)"),
    ("Bare", "reads ndarray; return Record"),
    ("Absent", "does not define 'Absent'; it defines"),
  ],
)
def test_incomplete_sources_are_refused(folder, name, message):
  with pytest.raises(DataError, match=message) as caught:
    open_source(f"{__name__}:{name}:{folder}", "train")
  if name != "Absent":
    assert '"A data source"' in str(caught.value)


class Later(toy_source.Toy):
  """A source whose third record has another dtype and whose fourth raises."""

  def read(self, index):
    image = super().read(index).image
    if index == 2:
      image = image / 255
    return Record(image, (int(index == 4),) if index != 3 else 1 / 0)


def test_invalid_later_records_are_bad_records(folder):
  opened = open_source(f"{__name__}:Later:{folder}", "train")
  assert opened.read(4).labels == (1,)
  with pytest.raises(BadRecordError, match=r"record 2 .*an image of float64"):
    opened.read(2)
  with pytest.raises(BadRecordError, match=r"record 3 .*ZeroDivisionError"):
    opened.read(3)
  again = pickle.loads(pickle.dumps(opened))
  with pytest.raises(BadRecordError, match="record 2 "):
    again.read(2)


def test_errors_name_the_call_that_failed(folder):
  with pytest.raises(
    DataError, match=r"Toy\('', 'train'\) failed with FileNot"
  ):
    open_source("toy_source:Toy", "train")
  with pytest.raises(DataError, match=r"importing 'no_such\.module' failed"):
    open_source("no_such.module:Toy", "train")
  with pytest.raises(DataError, match="no module 'no_such' can be imported"):
    open_source("no_such:Toy", "train")
  with pytest.raises(EmptySplitError, match="has no records"):
    open_source(f"{__name__}:Empty:{folder}", "train")


def test_splits_of_the_same_records_are_refused(folder):
  open_source(f"{__name__}:Undivided:{folder}", "train")
  with pytest.raises(DataError, match="the same records for both splits"):
    open_source(f"{__name__}:Undivided:{folder}", "heldout")


def test_docs_contain_the_toy_source():
  root = pathlib.Path(__file__).parent.parent.parent
  recipe = pathlib.Path(toy_source.__file__).read_text()
  assert recipe in (root / "docs" / "how-to" / "extend.md").read_text()


def test_a_path_that_exists_is_a_path(folder, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "toy_source:Toy").mkdir()
  with pytest.raises(DataError, match="no file in it ends in"):
    open_source("toy_source:Toy", "train")


@pytest.mark.parametrize("name", ["stacked", "tfds", "synthetic"])
def test_a_folder_may_be_called_like_a_kind(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).mkdir()
  for opened in (lambda: open_source(name, "train"), lambda: open_inputs(name)):
    with pytest.raises(DataError, match=f"{name} is empty: no file in it"):
      opened()


def test_sources_that_cannot_be_pickled_are_reported(folder):
  stream = stream_of(f"{__name__}:Locked:{folder}", workers=1)
  with pytest.raises(DataError, match="a source cannot be pickled"):
    next(stream)
  stream.close()
