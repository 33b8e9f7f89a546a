"""Training on data with records that cannot be decoded."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bigscale.data import images, ingest, manifest, records
from bigscale.data.manifest import Schema
from tests.e2e import tiny
from tests.fast_compile import FLAGS

_BAD = {5: b"", 40: b"no image at all"}


def config_of(source: str):
  """Returns the config of `tiny` with another data source."""
  config = tiny.get_config()
  config.data.source = source
  # The first batch contains a bad record, before a step is compiled.
  config.data.shuffle = False
  config.data.max_bad_fraction = 0.001
  config.global_batch_size = 16
  # Saves time; the numbers do not matter here.
  config.evaluate.classifier_steps = 2
  config.monitor = {"action": "off"}
  config.loss.r1_gamma = 0.0
  return config


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
  """A data set of 2,000 records, two of which are not images."""
  path = tmp_path_factory.mktemp("data") / "set"
  random = np.random.default_rng(0)
  schema = Schema(encoding="png", image_shape=(8, 8, 1))
  samples = [
    (random.integers(0, 256, (8, 8, 1), np.uint8), i % 10) for i in range(2000)
  ]
  arguments = {
    "name": "damaged",
    "schema": schema,
    "class_names": tuple("0123456789"),
    "source": "noise",
    "licence": "none",
  }
  built = ingest.write(
    str(path), {"train": samples, "heldout": samples[:200]}, **arguments
  )
  shard = built.of("train")[0]
  encoded = [records.encode(i, (label,), schema) for i, label in samples]
  for index, data in _BAD.items():
    encoded[index] = encoded[index][:4] + data
  file = path / shard.file
  file.unlink()
  ingest.write_records(str(file), encoded, "group_size:1,uncompressed")
  size, digest = file.stat().st_size, ingest.sha256(str(file))
  tree = json.loads((path / manifest.FILE_NAME).read_text())
  tree["shards"][0] |= {"bytes": size, "sha256": digest}
  (path / manifest.FILE_NAME).write_text(json.dumps(tree))
  return path


def train(tmp_path, damaged, *options):
  config = tmp_path / "config.py"
  config.write_text(
    "from tests.e2e.test_bad_records import config_of\n"
    f"get_config = lambda: config_of({str(damaged)!r})\n"
  )
  root = str(pathlib.Path(__file__).parents[2])
  return subprocess.run(
    [
      *(sys.executable, "-m", "bigscale.cli.main", "train"),
      *(f"--config={config}", f"--workdir={tmp_path / 'run'}", *options),
    ],
    env=os.environ
    | {"XLA_FLAGS": FLAGS, "BIGSCALE_CACHE": str(tmp_path), "PYTHONPATH": root},
    capture_output=True,
    text=True,
  )


def events(tmp_path):
  lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_replaced_records_are_events(tmp_path, damaged):
  done = train(tmp_path, damaged)
  assert done.returncode == 0, done.stderr[-3000:]
  listed = [e for e in events(tmp_path) if e["event"] == "bad_record"]
  assert {event["index"] for event in listed} == set(_BAD)
  for event in listed:
    assert event["source"].startswith("damaged/train@")
    assert event["reason"]


def test_too_many_bad_records_end_the_run(tmp_path):
  folder = tmp_path / "images"
  pixels = np.zeros((8, 8, 1), np.uint8)
  for number in range(10):
    (folder / "train" / str(number)).mkdir(parents=True)
    for each in range(20):
      (folder / "train" / str(number) / f"{each}.png").write_bytes(
        images.encode(pixels, "png") if each % 2 else b"no image at all"
      )
  (folder / "val" / "0").mkdir(parents=True)
  (folder / "val" / "0" / "1.png").write_bytes(images.encode(pixels, "png"))
  (folder / "unlabeled").mkdir()
  (folder / "unlabeled" / "1.png").write_bytes(b"")
  done = train(tmp_path, folder, "--config.data.max_bad_fraction=0.0")
  assert done.returncode == 2, done.stderr[-3000:]
  assert "data.max_bad_fraction=0.0" in done.stderr
  assert "Traceback" not in done.stderr
  assert [e for e in events(tmp_path) if e["event"] == "bad_record"]
  # The folder that is not read is reported once.
  assert done.stderr.count("not read, as neither split: unlabeled/") == 1
