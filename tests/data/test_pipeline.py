import itertools
import json
import pathlib

import numpy as np
import pytest
from marked_set import RECORDS, write

from bigscale.data import pipeline
from bigscale.data.batches import StepBatches
from bigscale.data.manifest import DataError
from bigscale.data.mixture import Labels, deal_of, labels_of
from bigscale.data.order import order_of
from bigscale.data.reading import SourceMix
from bigscale.data.sequence import Records
from bigscale.data.sources import BadRecordError, Record
from bigscale.data.stream import Stream, alone
from bigscale.spec import DataSpec, SpecError
from bigscale.types import Batch


def make(directory, batch=5, batches=1, seed=0, rows=None, **settings):
  model = {"resolution": 4, "channels": 1, "num_classes": 3, "processes": 1}
  decide = settings.pop("decide", alone)
  model.update(
    {key: settings.pop(key) for key in tuple(settings) if key in model}
  )
  return pipeline.make(
    DataSpec(source=directory, **settings),
    **model,
    global_batch_size=batch,
    batches_per_step=batches,
    seed=seed,
    rows=rows,
    decide=decide,
  )


def take(stream, steps):
  return list(itertools.islice(stream, steps))


def records(batches):
  """Returns the record numbers of marked images, mirrored or not."""
  images = [batch.images.max(axis=(2, 3, 4)).ravel() for batch in batches]
  return np.concatenate(images).astype(int) - 1


def mirrored(batches):
  return np.concatenate([b.images[:, :, 0, 0, 0].ravel() == 0 for b in batches])


def assert_same(got, expected):
  assert len(got) == len(expected)
  for a, b in zip(got, expected, strict=True):
    np.testing.assert_array_equal(a.images, b.images)
    np.testing.assert_array_equal(a.labels, b.labels)


@pytest.fixture(autouse=True)
def _close_streams(monkeypatch):
  opened = []
  init = Stream.__init__

  def tracked(self, *args):
    opened.append(self)
    init(self, *args)

  monkeypatch.setattr(Stream, "__init__", tracked)
  yield
  for stream in opened:
    if hasattr(stream, "_elements"):
      stream.close()


def test_shapes_and_labels(directory):
  (batch,) = take(make(directory, batch=6, batches=2), 1)
  assert batch.images.shape == (2, 6, 4, 4, 1)
  assert batch.labels.shape == (2, 6)
  assert (batch.images.dtype, batch.labels.dtype) == (np.uint8, np.int32)
  np.testing.assert_array_equal(batch.labels.ravel(), records([batch]) % 3)


def test_every_epoch_has_every_record_once_in_a_new_order(directory):
  order = records(take(make(directory), RECORDS)).reshape(5, RECORDS)
  np.testing.assert_array_equal(
    np.sort(order), np.tile(np.arange(RECORDS), (5, 1))
  )
  assert len({tuple(epoch) for epoch in order}) == 5
  other = records(take(make(directory, seed=1), RECORDS))
  # If seeds were added to epochs, seed 1 would start with epoch 1 of seed 0.
  assert not set(map(tuple, other.reshape(5, RECORDS))) & set(map(tuple, order))


def test_unshuffled_is_the_order_of_the_source(directory):
  order = records(take(make(directory, shuffle=False), RECORDS))
  np.testing.assert_array_equal(order, np.tile(np.arange(RECORDS), 5))


def test_order_is_pinned(directory):
  # A change here changes the data order of all recorded runs. Mention it in the
  # changelog before updating these numbers.
  order = records(take(make(directory, seed=7), 2))
  assert order.tolist() == [12, 19, 22, 14, 21, 2, 3, 4, 20, 15]


def test_a_resumed_stream_equals_the_original(directory):
  stream = make(directory, batch=4, batches=2, flip=True)
  states, batches = [], []
  for _ in range(9):
    states.append(json.loads(json.dumps(stream.get_state())))
    batches.append(next(stream))
  assert states[3]["records_consumed"] == 24
  resumed = make(directory, batch=4, batches=2, flip=True)
  for i, state in enumerate(states):
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert_same(take(resumed, 9 - i), batches[i:])


@pytest.mark.parametrize(
  "rows",
  [
    [range(4), range(4, 8)],
    [[i] for i in range(8)],
    # Rows of a mesh that follows a torus.
    [[0, 1, 4, 5], [2, 3, 6, 7]],
  ],
)
def test_processes_share_the_same_global_batches(directory, rows):
  settings = {"batch": 8, "batches": 2, "flip": True}
  whole = take(make(directory, **settings), 7)
  streams = [make(directory, rows=part, **settings) for part in rows]
  parts = [take(stream, 7) for stream in streams]
  order = np.argsort(np.concatenate(rows))
  joined = [
    Batch(
      *(np.concatenate(x, axis=1)[:, order] for x in zip(*step, strict=True))
    )
    for step in zip(*parts, strict=True)
  ]
  assert_same(joined, whole)
  assert all(s.get_state()["records_consumed"] == 112 for s in streams)


def test_resuming_with_other_batch_sizes_skips_and_repeats_nothing(directory):
  plain = take(make(directory, batch=1, flip=True), 78)
  first = make(directory, batch=5, flip=True)
  batches = take(first, 3)
  second = make(directory, batch=7, batches=2, flip=True)
  second.set_state(first.get_state())
  batches += take(second, 3)
  halves = [
    make(directory, batch=6, rows=range(i, i + 3), flip=True) for i in (0, 3)
  ]
  for half in halves:
    half.set_state(second.get_state())
  for _ in range(2):
    batches += [next(half) for half in halves]
  third = make(directory, batch=9, flip=True)
  third.set_state(halves[0].get_state())
  batches += take(third, 0)
  np.testing.assert_array_equal(records(batches), records(plain)[:69])
  np.testing.assert_array_equal(mirrored(batches), mirrored(plain)[:69])


def test_prefetch_does_not_change_the_stream(directory):
  few, many = (take(make(directory, flip=True, prefetch=n), 12) for n in (1, 7))
  assert_same(few, many)


def test_flips_depend_on_position_alone(directory):
  flips = mirrored(take(make(directory, batch=10, flip=True), 92))
  assert 0.4 < flips.mean() < 0.6
  others = (
    {"batch": 23, "shuffle": False},
    {"batch": 4, "batches": 5},
  )
  for other in others:
    steps = 920 // (other["batch"] * other.get("batches", 1))
    got = mirrored(take(make(directory, flip=True, **other), steps))
    np.testing.assert_array_equal(got, flips)
  epochs = flips.reshape(40, RECORDS)
  assert (epochs[0] != epochs[1]).any()
  assert (
    mirrored(take(make(directory, flip=True, seed=1), 4)) != flips[:20]
  ).any()
  assert not mirrored(take(make(directory), 4)).any()


def test_gray_source_for_an_rgb_model(directory):
  gray = next(make(directory, resolution=8)).images
  rgb = next(make(directory, resolution=8, channels=3)).images
  assert rgb.shape == (1, 5, 8, 8, 3)
  np.testing.assert_array_equal(rgb, np.repeat(gray, 3, axis=-1))


def test_model_without_classes_gets_zeros(directory):
  (batch,) = take(make(directory, batch=23, num_classes=0), 1)
  assert batch.labels.shape == (1, 23)
  assert not batch.labels.any()


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"num_classes": 2}, "run from 0 to 2; set model.num_classes=3"),
    ({"num_classes": 10}, "set model.num_classes=3, or 0"),
    ({"channels": 4}, "model of 4"),
    ({"batch": 8, "rows": [7, 8]}, "for a batch of 8: pass .* from 0 to 7"),
    ({"batch": 8, "rows": []}, "pass one or more row numbers"),
    ({"batches": 0}, "batches_per_step=0"),
    (
      {"processes": RECORDS + 1},
      "has 23 training records, but 24 processes .* at most 23 hosts",
    ),
    ({"processes": 4, "subset": 3}, "has 3 training records, .* 4 processes"),
  ],
)
def test_invalid_settings_are_rejected(directory, settings, message):
  with pytest.raises(SpecError, match=message):
    make(directory, **settings)


def test_one_process_per_record_is_allowed(directory):
  (batch,) = take(make(directory, batch=3, subset=3, processes=3), 1)
  assert len(set(records([batch]))) == 3


def test_conditional_model_on_an_unlabeled_source(tmp_path, marked):
  write(str(tmp_path / "set"), marked, class_names=())
  with pytest.raises(DataError, match="has no labels; set"):
    make(str(tmp_path / "set"))
  make(str(tmp_path / "set"), num_classes=0)


@pytest.mark.parametrize(
  "state",
  [
    {},
    {"records_consumed": -1},
    {"records_consumed": 1.5},
    {"records_consumed": 1, "skipped": [[4, 2]]},
    {"records_consumed": 1, "skipped": [3]},
  ],
)
def test_invalid_states_are_rejected(directory, state):
  stream = make(directory)
  with pytest.raises(DataError, match="cannot resume"):
    stream.set_state(state)
  assert stream.get_state()["records_consumed"] == 0


def test_a_closed_stream_raises_until_its_state_is_set(directory):
  stream = make(directory)
  first = next(stream)
  stream.close()
  with pytest.raises(ValueError, match="closed"):
    next(stream)
  stream.set_state({"records_consumed": 0})
  assert_same([next(stream)], [first])


class FakeSource:
  """Records that store their index; those in `broken` are unreadable."""

  decodes = True

  def __init__(self, length, broken=()):
    self.length, self.broken, self.asked = length, set(broken), []
    self.class_names = ("any",)
    self.num_classes = 1
    self.identity = f"fake/{length}"
    self.file_records = (length,)

  def __len__(self):
    return self.length

  def read(self, index):
    self.asked.append(index)
    if index in self.broken:
      raise BadRecordError(self.identity, index, "it is broken", "nowhere")
    image = np.full((2, 2, 1), index % 251, np.uint8)
    return Record(image, (0,))


def stream_of(*sources, batch=4, rows=None, **settings):
  settings = {"shuffle": False, "prefetch": 3, **settings}
  spec = DataSpec(source="fake", **settings)
  shares = [1 / len(sources)] * len(sources)
  labels = labels_of(spec, sources[:1])
  labels = Labels(labels.tables * len(sources), labels.class_names)
  parts = SourceMix(sources, deal_of(shares, 0), labels)
  orders = tuple(order_of(source, 0, 0, spec.shuffle) for source in sources)
  sequence = Records(parts, orders, 0, spec)
  rows = range(batch) if rows is None else rows
  return Stream(StepBatches(sequence, 1, batch, rows, (2, 2, 1), True), spec)


@pytest.mark.parametrize(
  ("decodes", "asked", "threads"),
  [
    ((False, False), 0, "1 thread"),
    ((False, True), 0, "2 threads"),
    ((False, False), 3, "3 threads"),
  ],
)
def test_raw_images_are_read_by_one_thread_by_default(decodes, asked, threads):
  sources = [FakeSource(8), FakeSource(8)]
  for source, value in zip(sources, decodes, strict=True):
    source.decodes = value
  stream = stream_of(*sources, threads=asked)
  assert stream.readers == threads


def test_an_epoch_covers_every_source():
  assert stream_of(FakeSource(8), FakeSource(5)).images == 13


def test_an_epoch_of_a_subset(directory):
  stream = make(directory, subset=10)
  assert stream.images == 10
  stream.close()


def indices(batches):
  return np.concatenate([b.images[0, :, 0, 0, 0] for b in batches]).tolist()


def test_an_error_does_not_move_the_stream():
  source = FakeSource(100, broken={13})
  stream = stream_of(source, bad_records="error")
  assert indices(take(stream, 3)) == list(range(12))
  for _ in range(2):
    with pytest.raises(DataError, match=r"record 13 of fake.*it is broken"):
      next(stream)
    assert stream.get_state()["records_consumed"] == 12
  source.broken.clear()
  assert indices(take(stream, 3)) == list(range(12, 24))


def test_only_own_rows_are_read():
  source = FakeSource(100)
  stream = stream_of(source, batch=8, rows=range(2, 4))
  assert indices(take(stream, 3)) == [2, 3, 10, 11, 18, 19]
  assert {index % 8 for index in source.asked} == {2, 3}


def test_bad_records_are_replaced_equally_on_any_process():
  def run(rows, batch=10):
    source = FakeSource(5000, broken={3, 17})
    stream = stream_of(source, batch=batch, rows=rows)
    return indices(take(stream, 4)), stream.take_faults()

  whole, faults = run(range(10))
  assert [fault.index for fault in faults] == [3, 17]
  assert faults[0] == ("fake/5000", 3, "it is broken", 0)
  good = [i for i in range(40) if i not in (3, 17)]
  assert [whole[i] for i in good] == good
  assert whole[3] != 3
  assert whole[17] != 17
  parts = [run(range(5))[0], run(range(5, 10))[0]]
  joined = np.concatenate([np.reshape(p, (4, 5)) for p in parts], axis=1)
  assert joined.ravel().tolist() == whole
  assert run(range(10)) == (whole, faults)


def test_faults_belong_to_consumed_batches():
  # The reader is already past the first batch, which has no faults.
  stream = stream_of(FakeSource(5000, broken={5}), batch=4, prefetch=4)
  next(stream)
  assert stream.take_faults() == ()
  next(stream)
  assert [fault.index for fault in stream.take_faults()] == [5]
  assert stream.take_faults() == ()


def test_more_bad_records_than_allowed_stop_the_run():
  source = FakeSource(1000, broken={1, 6, 9})
  stream = stream_of(source, batch=4, max_bad_fraction=0.002)
  take(stream, 2)
  with pytest.raises(
    DataError,
    match=r"3 records.*record 9.*allows 2 of 1000\. .*fix records 1, 6, 9 \(",
  ):
    next(stream)
  # The faults that caused the error can still be listed.
  assert [fault.index for fault in stream.take_faults()] == [1, 6, 9]


def test_bad_records_count_for_their_own_source():
  small = FakeSource(10, broken={2, 3})
  stream = stream_of(FakeSource(1000), small, batch=64, max_bad_fraction=0.1)
  with pytest.raises(DataError, match=r"2 records of fake/10 .*1 of 10\."):
    next(stream)
  assert {fault.part for fault in stream.take_faults()} == {1}


def test_a_repeated_bad_record_counts_once():
  stream = stream_of(FakeSource(8, broken={2}), batch=8)
  assert len(take(stream, 5)) == 5
  assert len(stream.take_faults()) >= 5


def test_a_source_without_good_records_is_an_error():
  source = FakeSource(6, broken=range(6))
  stream = stream_of(source, batch=2, max_bad_fraction=1.0)
  with pytest.raises(
    DataError, match="no usable record was found for position"
  ):
    next(stream)


def test_skipped_steps_are_never_read_again():
  plain = indices(take(stream_of(FakeSource(200)), 20))
  stream = stream_of(FakeSource(200))
  take(stream, 2)
  before = stream.get_state()
  take(stream, 3)
  # Return to the position before the three steps, and skip them.
  stream.set_state(before)
  assert stream.skip(12) == (8, 20)
  got = indices(take(stream, 2))
  assert got == plain[20:28]
  later = json.loads(json.dumps(stream.get_state()))
  assert later["skipped"] == [[8, 20]]
  for batch in (4, 7):
    resumed = stream_of(FakeSource(200), batch=batch)
    resumed.set_state(later)
    assert indices(take(resumed, 2)) == plain[28 : 28 + 2 * batch]


def test_adjacent_skips_are_merged():
  stream = stream_of(FakeSource(500), batch=2)
  stream.skip(4)
  stream.skip(2)
  take(stream, 3)
  stream.skip(8)
  assert stream.get_state()["skipped"] == [[0, 6], [12, 20]]
  assert indices([next(stream)]) == [20, 21]


def test_a_state_of_another_data_set_is_rejected():
  stream = stream_of(FakeSource(100))
  state = stream_of(FakeSource(101)).get_state()
  with pytest.raises(DataError, match=r"fake/101, but the run reads fake/100"):
    stream.set_state(state)


def test_missing_shards_stop_the_start_or_are_replaced(directory):
  (path,) = pathlib.Path(directory).glob("train-00002-*")
  path.unlink()
  for settings in ({}, {"bad_records": "error", "max_bad_fraction": 1.0}):
    with pytest.raises(DataError, match="train-00002"):
      make(directory, **settings)
  stream = make(directory, max_bad_fraction=0.25)
  seen = records(take(stream, 10))
  assert not set(seen) & set(range(10, 15))
  assert {fault.index for fault in stream.take_faults()} == set(range(10, 15))


def test_one_of_several_labels_is_sampled_by_position():
  source = FakeSource(50)
  source.num_classes, source.class_names = 3, ("a", "b", "c")
  read = source.read
  source.read = lambda index: Record(read(index).image, (0, 2))
  labels = [
    np.concatenate(
      [b.labels[0] for b in take(stream_of(source, batch=n), 120 // n)]
    )
    for n in (4, 10)
  ]
  np.testing.assert_array_equal(*labels)
  assert 30 < np.sum(labels[0] == 0) < 90
  assert set(labels[0].tolist()) == {0, 2}


def test_five_thousand_million_records():
  source = FakeSource(5 * 10**9)
  order = order_of(source, 0, 0, shuffle=True)
  found = order.indices(np.arange(10**12, 10**12 + 4096))
  assert len(np.unique(found)) == 4096
  assert 0 <= found.min() < 2**31
  assert 2**32 < found.max() < 5 * 10**9


def test_only_one_process_reads_files_for_the_identity(directory, monkeypatch):
  from bigscale.data.shards import ShardSource

  def never(self):
    raise AssertionError("only one process reads")

  monkeypatch.setattr(ShardSource, "content", never)
  stream = make(directory, decide=lambda choose: "told")
  assert stream.identity == "told"
  assert stream.get_state()["source"] == "told"
  stream.set_state(stream.get_state())
