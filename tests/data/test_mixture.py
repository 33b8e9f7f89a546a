"""Mixtures and subsets of sources."""

import itertools

import numpy as np
import pytest
from marked_set import read, write

from bigscale.data import pipeline
from bigscale.data.manifest import DataError
from bigscale.data.mixture import deal_of
from bigscale.data.openers import open_source
from bigscale.data.reading import open_data, open_mix
from bigscale.data.subset import Subset
from bigscale.spec import DataSpec, SourceSpec, SpecError, from_config
from tests.e2e import tiny


def marked(count, first):
  """Returns images whose pixels are first, first + 1 and so on."""
  images = np.zeros((count, 4, 4, 1), np.uint8)
  images[:, :, :, 0] = np.arange(first, first + count)[:, None, None]
  return images


@pytest.fixture
def sets(tmp_path):
  """Three sets of 23, 60 and 9 images, with 3, 2 and no classes."""
  paths = [str(tmp_path / name) for name in ("a", "b", "c")]
  write(paths[0], marked(23, 0))
  write(paths[1], marked(60, 100), class_names=("x", "y"))
  write(paths[2], marked(9, 200), class_names=())
  return paths


def stream(spec, num_classes=0, **settings):
  settings = {"global_batch_size": 10, "seed": 0, **settings}
  return pipeline.make(
    spec,
    resolution=4,
    channels=1,
    num_classes=num_classes,
    batches_per_step=1,
    **settings,
  )


def take(made, steps):
  batches = list(itertools.islice(made, steps))
  made.close()
  images = np.concatenate([b.images[0, :, 0, 0, 0] for b in batches])
  return images.astype(int), np.concatenate([b.labels[0] for b in batches])


def mixed(sets, shares, **settings):
  parts = tuple(
    SourceSpec(source=path, share=share)
    for path, share in zip(sets, shares, strict=True)
  )
  return DataSpec(mixture=parts, **settings)


@pytest.mark.parametrize(
  "shares", [(0.5, 0.5), (0.7, 0.2, 0.1), (1 / 3, 2 / 3), (0.99, 0.007, 0.003)]
)
def test_proportions_are_exact_after_any_number_of_rounds(shares):
  deal = deal_of(shares, 0)
  for rounds in (1, 7, 1000, 10**12):
    dealt = deal.before(rounds)
    assert sum(dealt) == rounds * deal.round_length
    exact = np.array(shares) * rounds * deal.round_length
    # Shares are rounded to units of 2^-32.
    slack = 1 + rounds * deal.round_length / 2**32
    assert np.abs(dealt - exact).max() <= slack


@pytest.mark.parametrize("first", [0, 10**14])
def test_each_source_gets_consecutive_indices(first):
  deal = deal_of((0.6, 0.3, 0.1), 5)
  first = first // deal.round_length * deal.round_length
  which, places = deal(np.arange(first, first + 5 * deal.round_length))
  before = deal.before(first // deal.round_length)
  for source in range(3):
    mine = places[which == source]
    expected = before[source] + np.arange(len(mine))
    np.testing.assert_array_equal(mine, expected)
  # Sources alternate at random, not in blocks.
  assert np.mean(which[1:] == which[:-1]) < 0.6


def test_sources_of_a_mixture_have_separate_epochs(sets):
  spec = mixed(sets, (0.5, 0.25, 0.25), mixture_labels="none")
  images, labels = take(stream(spec, global_batch_size=16), 48)
  assert not labels.any()
  counts = np.bincount(np.searchsorted([100, 200], images, side="right"))
  np.testing.assert_allclose(counts, [384, 192, 192], atol=1)
  small = images[images < 100]
  for epoch in range(len(small) // 23):
    once = np.sort(small[23 * epoch : 23 * (epoch + 1)])
    np.testing.assert_array_equal(once, np.arange(23))


def test_sources_of_equal_size_have_different_orders(tmp_path):
  paths = [str(tmp_path / name) for name in "ab"]
  write(paths[0], marked(40, 0))
  write(paths[1], marked(40, 100))
  spec = mixed(paths, (0.5, 0.5), mixture_labels="none")
  images, _ = take(stream(spec), 20)
  a, b = images[images < 100][:40], images[images >= 100][:40] - 100
  assert sorted(a) == sorted(b)
  assert (a != b).any()


def test_mixtures_resume_with_other_batch_sizes(sets):
  spec = mixed(sets, (0.5, 0.25, 0.25), mixture_labels="source", flip=True)
  whole, whole_labels = take(stream(spec, num_classes=3), 40)
  first = stream(spec, num_classes=3)
  start = [next(first) for _ in range(7)]
  second = stream(spec, num_classes=3, global_batch_size=33)
  second.set_state(first.get_state())
  first.close()
  images, labels = take(second, 10)
  np.testing.assert_array_equal(images, whole[70:400])
  np.testing.assert_array_equal(labels, whole_labels[70:400])
  assert len(start) == 7


def test_labels_of_mixtures(sets):
  joint = mixed(sets[:2], (0.5, 0.5))
  images, labels = take(stream(joint, num_classes=5), 20)
  own = np.where(images < 100, images % 3, 3 + (images - 100) % 2)
  np.testing.assert_array_equal(labels, own)
  by_source = mixed(sets, (0.5, 0.25, 0.25), mixture_labels="source")
  images, labels = take(stream(by_source, num_classes=3), 20)
  np.testing.assert_array_equal(labels, images // 100)
  names = open_mix(joint, "train").labels.class_names
  assert [name.rsplit("/", 1)[1] for name in names] == ["a", "b", "c", "x", "y"]


def test_label_tables_merge_classes(sets):
  parts = (
    SourceSpec(source=sets[0], share=0.5, labels=(0, 1, 1)),
    SourceSpec(source=sets[1], share=0.5, labels=(1, 2)),
  )
  images, labels = take(stream(DataSpec(mixture=parts), num_classes=3), 20)
  a, b = images % 3, (images - 100) % 2
  expected = np.where(images < 100, np.minimum(a, 1), 1 + b)
  np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
  ("temperature", "shares"), [(1.0, (23, 60, 9)), (2.0, (4.796, 7.746, 3.0))]
)
def test_temperature_weights_sources_by_size(sets, temperature, shares):
  parts = tuple(SourceSpec(source=path) for path in sets)
  spec = DataSpec(mixture=parts, temperature=temperature, mixture_labels="none")
  deal = open_mix(spec, "train").deal
  np.testing.assert_allclose(
    np.array(deal.shares) / 2**32, np.array(shares) / sum(shares), rtol=1e-3
  )


def test_a_mixture_as_one_source(tmp_path):
  paths = [str(tmp_path / name) for name in "ab"]
  write(paths[0], np.resize(marked(100, 0), (3000, 4, 4, 1)))
  write(paths[1], np.resize(marked(100, 100), (2000, 4, 4, 1)))
  source = open_data(mixed(paths, (0.75, 0.25)), "train")
  # The larger share runs out first: 3,000 / 0.75.
  assert 3000 <= len(source) <= 4000
  images, labels = read(source, range(len(source)))
  np.testing.assert_array_equal(labels, source.labels())
  assert abs(np.mean(images[:, 0, 0, 0] < 100) - 0.75) < 1e-3
  other = open_data(mixed(paths, (0.5, 0.5)), "train")
  assert other.identity != source.identity


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"mixture": [("a", 0.5), ("b", 0.2)]},
      r"sum to 1, not 0\.7; use 0\.71",
    ),
    ({"mixture": [("a", 1.2), ("b", -0.2)]}, r"share=1\.2 .*must lie in"),
    ({"mixture": [("a", 1.0), ("b", 0.0)]}, "must all be positive"),
    ({"source": "emoji"}, "set exactly one"),
    ({"temperature": 1.0}, r"remove share=0\.5"),
    ({"temperature": -1.0}, "must be positive"),
    ({"subset": 5}, "do not apply to a mixture"),
    (
      {"mixture": [], "source": "a", "temperature": 1.0},
      "needs a mixture of sources",
    ),
    ({"mixture": [], "source": ""}, "set exactly one"),
    ({"mixture": [], "source": "a", "subset": -1}, "subset=-1 must be 0"),
  ],
)
def test_invalid_mixtures_are_rejected(change, message):
  given = {"mixture": [("a", 0.5), ("b", 0.5)]} | change
  given["mixture"] = tuple(
    {"source": source, "share": share} for source, share in given["mixture"]
  )
  config = tiny.get_config().to_dict() | {"data": given}
  with pytest.raises(SpecError, match=message):
    from_config(config)


def test_mismatched_sources_are_rejected(sets):
  with pytest.raises(DataError, match=r"'joint', but .*has no labels"):
    stream(mixed(sets, (0.5, 0.25, 0.25)), num_classes=5)
  with pytest.raises(DataError, match=r"set model\.num_classes=5"):
    stream(mixed(sets[:2], (0.5, 0.5)), num_classes=4)
  short = (SourceSpec(source=sets[0], share=1.0, labels=(0, 1)),)
  with pytest.raises(DataError, match="2 labels are given for the 3 classes"):
    stream(DataSpec(mixture=short), num_classes=2)
  gap = (SourceSpec(source=sets[0], share=1.0, labels=(0, 2, 2)),)
  with pytest.raises(DataError, match=r"no class has the labels \[1\]"):
    stream(DataSpec(mixture=gap), num_classes=3)
  tiny = mixed(sets[:2], (1 - 1e-8, 1e-8), mixture_labels="none")
  with pytest.raises(DataError, match="below one in a million"):
    stream(tiny)


def test_subsets_are_nested(sets):
  source = open_source(sets[1], "train")
  sizes = [5, 20, 40, 60]
  kept = [
    set(read(Subset(source, size), range(size))[0][:, 0, 0, 0].tolist())
    for size in sizes
  ]
  for size, small, large in zip(sizes, kept, kept[1:], strict=False):
    assert len(small) == size
    assert small < large
  # The subset is not just the first stored records.
  assert kept[1] != set(range(100, 120))


def test_class_subsets_are_nested(tmp_path):
  path = str(tmp_path / "set")
  write(path, marked(60, 0), class_names=tuple("abcdefghij"))
  source = open_source(path, "train")
  names = [Subset(source, 0, count).class_names for count in (2, 5, 10)]
  assert names[2][:5] == names[1]
  assert names[1][:2] == names[0]
  some = Subset(source, 7, 3)
  images, labels = read(some, range(7))
  for image, label in zip(images[:, 0, 0, 0], labels, strict=True):
    assert some.class_names[label] == "abcdefghij"[image % 10]
  np.testing.assert_array_equal(some.labels(), labels)
  assert len(Subset(source, 0, 3)) == 18


def test_subsets_do_not_depend_on_the_seed(sets):
  spec = DataSpec(source=sets[1], subset=20)
  seen = [
    set(take(stream(spec, seed=seed, num_classes=2), 2)[0].tolist())
    for seed in (0, 1)
  ]
  assert len(seen[0]) == 20
  assert seen[0] == seen[1]


def test_held_out_images_are_not_in_subsets():
  for name in ("emoji", "fashion_mnist"):
    spec = DataSpec(source=name, subset=300, classes=4)
    train, heldout = (open_data(spec, s) for s in ("train", "heldout"))
    assert train.class_names == heldout.class_names
    assert len(train) == 300
    kept = {train.read(i).image.tobytes() for i in range(300)}
    held = {heldout.read(i).image.tobytes() for i in range(len(heldout))}
    assert len(held) == len(heldout) > 50
    assert not kept & held


@pytest.mark.parametrize(
  ("size", "classes", "message"),
  [
    (61, 0, "has 60 matching images; use 60"),
    (0, 3, "has 2 classes; use at most 2"),
  ],
)
def test_too_large_subsets_are_rejected(sets, size, classes, message):
  with pytest.raises(DataError, match=message):
    Subset(open_source(sets[1], "train"), size, classes)


def test_one_source_is_not_a_mixture(sets):
  a, b = (stream(DataSpec(source=path)) for path in sets[:2])
  assert a.identity == open_source(sets[0], "train").identity
  assert a.identity != b.identity
  a.close()
  b.close()
