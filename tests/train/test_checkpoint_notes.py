"""Damage to the JSON files of a checkpoint is also detected."""

import gc
import json
import logging
import random

import jax
import numpy as np
import pytest
from absl import logging as absl_logging
from jax.sharding import NamedSharding, PartitionSpec

from bigscale.parallel.mesh import make_mesh
from bigscale.spec import CheckpointSpec, MeshSpec
from bigscale.train import notes, sealed
from bigscale.train.checkpoint import (
  CheckpointReader,
  Checkpoints,
  DamagedError,
)

# Orbax leaves background readers of damaged files running.
pytestmark = [
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
  pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]
# Flipped bits per file, besides truncating, emptying and removing it.
FLIPS = 5


@pytest.fixture(autouse=True)
def _leave_nobody_behind():
  """Collects leftovers before the next file, where warnings are errors."""
  yield
  gc.collect()


@pytest.fixture(autouse=True)
def _quiet():
  """Silences hundreds of expected errors."""
  before = absl_logging.get_verbosity()
  absl_logging.set_verbosity(absl_logging.FATAL)
  yield
  absl_logging.set_verbosity(before)


def sharding():
  return NamedSharding(
    make_mesh(MeshSpec(), jax.devices()[:1]), PartitionSpec()
  )


def state(step):
  values = np.random.default_rng(step).normal(size=(8, 16))
  return {
    "w": jax.device_put(values.astype(np.float32), sharding()),
    "step": jax.device_put(np.int32(step), sharding()),
  }


def abstract():
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state(0),
  )


def data(step):
  return {
    "records_consumed": 1048576 * step,
    "skipped": [[64, 128 * step]],
    "source": "folder/train@0f3c",
  }


def meta(step):
  verdict = {"level": "ok", "onset": None, "means": [0.25 * step, 1e-12]}
  return {"kimg": 0.5 * step, "monitor": {"verdict": verdict, "retries": 0}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """Saves steps 1 and 2."""
  folder = tmp_path_factory.mktemp("saved")
  checkpoints = Checkpoints(folder, CheckpointSpec(keep=5, keep_best=0))
  for step in (1, 2):
    checkpoints.save(step, state(step), data(step), meta(step))
  checkpoints.close()
  return folder


@pytest.fixture
def reader(saved):
  opened = CheckpointReader(saved)
  yield opened
  opened.close()


def files_of(saved, step=2):
  found = (saved / "checkpoints" / str(step)).rglob("*")
  return sorted(path for path in found if path.is_file())


def damages(content, seed):
  """Yields (kind of damage, damaged content or None if the file is removed)."""
  bits = range(8 * len(content))
  for bit in random.Random(seed).sample(bits, min(FLIPS, len(bits))):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    yield f"bit {bit}", bytes(flipped)
  yield "cut", content[: len(content) // 2]
  yield "empty", b""
  yield "gone", None


def outcome(reader):
  """Returns whether step 2 is whole or damage was noticed."""
  restored = reader.restore(abstract())
  if restored.damaged:
    assert (restored.step, restored.damaged[0].step) == (1, 2)
  step = restored.step
  assert (restored.data, restored.meta) == (data(step), meta(step))
  jax.tree.map(np.testing.assert_array_equal, restored.state, state(step))
  return "noticed" if restored.damaged else "whole"


def test_damage_to_any_file_is_noticed_or_harmless(saved, reader):
  found = {}
  seed = random.randrange(2**31)
  for path in files_of(saved):
    content = path.read_bytes()
    name = str(path.relative_to(saved / "checkpoints" / "2"))
    try:
      for what, damaged in damages(content, f"{seed} {name}"):
        if damaged is None:
          path.unlink()
        else:
          path.write_bytes(damaged)
        try:
          found.setdefault(name, set()).add(outcome(reader))
        except BaseException as error:
          error.add_note(f"{name}: {what}, seed {seed}")
          raise
    finally:
      path.write_bytes(content)
  # Damage to files with values is noticed. JSON has bits without a meaning:
  # 1e-12 is 1E-12.
  assert "noticed" in found["data/metadata"] & found["meta/metadata"]
  assert found["state/manifest.ocdbt"] == {"noticed"}
  assert outcome(reader) == "whole"


@pytest.mark.parametrize("name", ["manifest.ocdbt", "d/*"])
def test_a_damaged_array_index_is_reported_once(saved, reader, name, capfd):
  (path,) = (saved / "checkpoints" / "2" / "state").glob(name)
  content = path.read_bytes()
  try:
    path.write_bytes(content[:60] + b"damaged" + content[67:])
    restored = reader.restore(abstract())
  finally:
    path.write_bytes(content)
  ((step, why),) = restored.damaged
  assert (restored.step, step) == (1, 2)
  assert why.startswith("the index of its arrays cannot be read")
  assert str(path) in why
  # Threads of TensorStore would print their own tracebacks.
  assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["data", "meta"])
def test_every_bit_of_the_json_counts(saved, name):
  """Orbax only reads the JSON of these two files."""
  folder = saved / "checkpoints" / "2"
  both = {n: (folder / n / "metadata").read_bytes() for n in ("data", "meta")}
  content = both[name]
  wanted = notes.unseal(2, *map(json.loads, both.values()))
  for bit in range(8 * len(content)):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
      read = {n: json.loads(text) for n, text in both.items()}
      read[name] = json.loads(bytes(flipped))
      if not isinstance(read[name], dict):
        continue
      found = notes.unseal(2, **read)
    except ValueError:
      continue
    assert found == wanted, f"bit {bit}"


def test_a_renamed_step_is_rejected(saved, tmp_path):
  """Its data position would belong to another step."""
  content = (saved / "checkpoints" / "1" / "data" / "metadata").read_text()
  other = (saved / "checkpoints" / "1" / "meta" / "metadata").read_text()
  both = json.loads(content), json.loads(other)
  notes.unseal(1, *both)
  with pytest.raises(sealed.SealError, match="differ from what was saved"):
    notes.unseal(2, *both)


def test_files_without_a_digest_are_accepted_with_a_warning(
  saved, reader, caplog
):
  """They were written by an earlier version."""
  absl_logging.set_verbosity(absl_logging.WARNING)
  paths = [
    saved / "checkpoints" / "2" / name / "metadata" for name in ("data", "meta")
  ]
  before = [path.read_bytes() for path in paths]
  try:
    for path, content in zip(paths, before, strict=True):
      plain = json.loads(content)
      del plain["digest"]
      path.write_text(json.dumps(plain))
    with caplog.at_level(logging.WARNING):
      assert outcome(reader) == "whole"
    assert "a version without a digest" in caplog.text
    # If one file still has the digest, the other one is damaged.
    paths[0].write_bytes(before[0])
    assert outcome(reader) == "noticed"
    with pytest.raises(DamagedError, match="the data position or the"):
      reader.restore(abstract(), 2)
  finally:
    for path, content in zip(paths, before, strict=True):
      path.write_bytes(content)


def test_digests_are_computed_from_values():
  plain = {"b": [1, 2.5, None], "a": {"1": "ä\udcff"}}
  assert sealed.unseal(json.loads(json.dumps(sealed.seal(plain)))) == plain
  assert sealed.digest({"a": (1, 2)}) == sealed.digest({"a": [1, 2]})
  assert sealed.digest({1: 0}) == sealed.digest({"1": 0})
  assert sealed.digest({"a": 1}) != sealed.digest({"a": 2})
  assert sealed.digest({"a": float("nan")}) == sealed.digest(
    {"a": float("nan")}
  )
  for other in ([], {}, {"sha256": "0"}, sealed.seal({"a": 1}) | {"a": 2}):
    with pytest.raises(sealed.SealError):
      sealed.unseal(other)
