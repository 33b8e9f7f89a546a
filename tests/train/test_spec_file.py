"""spec.json identifies a run, and damage to it is detected."""

import json
import random

import pytest

from bigscale.spec import SpecError, from_config, to_json
from bigscale.train import folder as folders
from bigscale.train import sealed
from tests.e2e import tiny

FLIPS = 1000


@pytest.fixture(scope="module")
def spec():
  return from_config(tiny.get_config())


@pytest.fixture
def path(tmp_path, spec):
  return folders.create(tmp_path, spec, ["train"]).spec


def test_the_written_spec_is_read_back(path, spec):
  folder, read = folders.open_existing(path.parent)
  assert (folder.spec, read) == (path, spec)
  assert json.loads(path.read_text()).keys() == {
    *("spec", "versions", "command", "environment", sealed.KEY)
  }


def test_a_flipped_bit_is_noticed_or_harmless(path, spec):
  content = path.read_bytes()
  seed = random.randrange(2**31)
  noticed = 0
  for bit in random.Random(seed).sample(range(8 * len(content)), FLIPS):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
      read = folders.open_existing(path.parent)[1]
      assert read == spec, f"bit {bit}, seed {seed}"
    except SpecError as error:
      if "spec.json is damaged" not in str(error):
        raise
      noticed += 1
  # Nearly all flips are noticed; the others change whitespace.
  assert noticed > FLIPS // 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"spec": {"se'])
def test_the_remedy_for_a_damaged_file_works(path, spec, content):
  path.write_bytes(content)
  for use in (
    lambda: folders.open_existing(path.parent),
    lambda: folders.create(path.parent, spec, ["train"]),
  ):
    with pytest.raises(SpecError, match="move only this file away"):
      use()
  path.rename(path.with_suffix(".damaged"))
  folders.create(path.parent, spec, ["train"])
  assert folders.open_existing(path.parent)[1] == spec


def test_a_file_of_an_earlier_version_has_no_digest(path, spec):
  plain = {"spec": to_json(spec), "versions": {}, "command": []}
  path.write_text(json.dumps(plain))
  assert folders.open_existing(path.parent)[1] == spec
  # Resuming the run adds the digest.
  folders.create(path.parent, spec, ["train"])
  assert sealed.KEY in json.loads(path.read_text())
