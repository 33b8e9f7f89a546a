"""Bad addresses and malformed manifests give a single error message."""

import json
import sys

import pytest
from image_files import png, write
from test_archives import write_tar

from bigscale.cli.main import main
from bigscale.data.build import build
from bigscale.data.inputs import open_inputs
from bigscale.data.manifest import FILE_NAME, DataError
from bigscale.data.openers import open_source
from bigscale.place import door
from tests.data.built_set import NoiseSource, options
from tests.e2e import tiny


def built(folder):
  folder.mkdir(parents=True, exist_ok=True)
  build({"train": NoiseSource(12)}, str(folder / "set"), options())
  return str(folder / "set")


def without_packages(monkeypatch):
  for module in ("gcsfs.core", "s3fs"):
    monkeypatch.setitem(sys.modules, module, None)
  return r"install it with: pip install 'bigscale\[(gcs|s3)\]'"


def without_network(monkeypatch):
  for server in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL"):
    monkeypatch.setenv(server, "http://127.0.0.1:9")
  for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    monkeypatch.setenv(key, "test")
  monkeypatch.setattr(door, "PATIENCE_SECONDS", 0.1)
  return r"cannot be accessed \(listing .* kept failing"


@pytest.mark.parametrize(
  "name",
  [
    *("gs://b/set", "s3://b/a.zip", "gs://b/a.npz", "stacked:gs://b/x"),
    *("gs://b/*.tar", "s3://b/a.tar", "idx:gs://b/images,gs://b/labels"),
  ],
)
@pytest.mark.parametrize("lack", [without_packages, without_network])
def test_unreadable_addresses_give_one_message(monkeypatch, name, lack):
  monkeypatch.setattr(door, "_accessed", set())
  monkeypatch.setattr("bigscale.place.clients._clients", {})
  reason = lack(monkeypatch)
  with pytest.raises(DataError, match=rf"://b.*{reason}.*copy it to a disk"):
    open_inputs(name)
  if not name.startswith("idx:") and not name.endswith(".tar"):
    with pytest.raises(DataError, match=reason):
      open_source(name, "train")


@pytest.mark.parametrize(
  "name", ["http://host/set.zip", "https://host/a.tar", "ftp://host/x"]
)
def test_unsupported_address_schemes_are_rejected(name):
  scheme = name.partition("/")[0]
  with pytest.raises(
    DataError, match=rf"{name}.*{scheme}// is not supported.*copy"
  ):
    open_inputs(name)


@pytest.mark.parametrize("words", [("train",), ("data", "inspect")])
def test_commands_exit_with_2(tmp_path, capsys, words):
  more = [f"--config={tiny.__file__}", f"--workdir={tmp_path / 'run'}"]
  more += ["--config.data.source=http://host/x"]
  more = more if words == ("train",) else ["http://host/x"]
  assert main(["bigscale", *words, *more]) == 2
  said = capsys.readouterr().err
  assert said.count("\n") == 1
  assert "http:// is not supported" in said
  assert not (tmp_path / "run").exists()


def test_names_too_long_for_a_disk_give_one_message():
  with pytest.raises(DataError, match=r"cannot be accessed|is neither"):
    open_source("x" * 5000, "train")


def nonsense():
  yield "[" * 100_000 + "]" * 100_000, "is not valid JSON"
  yield '{"a":' * 100_000 + "1" + "}" * 100_000, "is not valid JSON"
  yield "[]", "format_version=None"
  yield '{"format_version": 1}', "is missing"


@pytest.mark.parametrize(("text", "reason"), list(nonsense()), ids=list("abcd"))
def test_malformed_manifests_are_rejected(tmp_path, text, reason):
  root = write(tmp_path / "set", {FILE_NAME: text.encode(), "0.png": png(0)})
  with pytest.raises(DataError, match=reason):
    open_source(root, "train")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("schema", []),
    ("schema", "png"),
    ("shards", {"a": 1}),
    ("shards", ["x"]),
    ("shards", 3),
    ("class_names", "abc"),
    ("class_names", [1, 2]),
    ("made", []),
    ("made", {"splits": []}),
    ("made", {"splits": {"train": []}}),
    ("made", {"splits": {"train": {"label_counts": "many"}}}),
    ("made", {"splits": {"train": {"label_counts": [0.5, "x"]}}}),
    ("padding", [2]),
  ],
)
def test_manifest_fields_of_wrong_type_are_rejected(tmp_path, key, value):
  directory = built(tmp_path)
  path = f"{directory}/{FILE_NAME}"
  with open(path, encoding="utf-8") as file:
    tree = json.load(file)
  tree[key] = value
  with open(path, "w", encoding="utf-8") as file:
    json.dump(tree, file)
  if key == "made" and value == []:
    open_source(directory, "train").label_counts()
    return
  with pytest.raises(DataError, match="does not describe a data set"):
    open_source(directory, "train")


def test_a_folder_of_sharded_sets_lists_them(tmp_path):
  built(tmp_path / "all")
  with pytest.raises(DataError, match=r"one of the sharded sets in it \(set"):
    open_source(str(tmp_path / "all"), "train")


def test_tars_are_found_by_pattern(tmp_path):
  write_tar(tmp_path / "a.tar", [(f"{i}.png", png(i)) for i in range(60)])
  assert len(open_inputs(f"{tmp_path}/*.tar")["train"]) > 40
