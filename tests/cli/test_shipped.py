"""Shipped configs are found by name from any working directory."""

import pathlib
import re

import pytest

from bigscale.cli import config_flags as shipped
from bigscale.cli.main import main

ROOT = pathlib.Path(__file__).parents[2]
FILES = {
  path.relative_to(ROOT / "configs").with_suffix("").as_posix(): path
  for path in (ROOT / "configs").rglob("*.py")
  if path.name != "__init__.py"
}
# All commands that read a config.
COMMANDS = (
  ("train", "--workdir=run"),
  ("config",),
  ("plan", "--topology=v5e:1x1"),
  ("import", "--format=r3gan", "G.npz", "--out=run"),
  ("bench", "step"),
  ("bench", "data"),
  ("scaling", "sweep", "--out=out"),
)


def refusal(capsys, *words):
  assert main(["bigscale", *words]) == 2
  return capsys.readouterr().err


def test_every_config_has_a_name():
  assert shipped.names() == sorted(FILES)
  assert {"fashion_r3gan", "biggan", "sweeps/stacked_mnist"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_name_leads_to_the_shipped_file(name, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path, _, argument = shipped.locate(f"{name}:128:x").partition(":")
  assert pathlib.Path(path).samefile(FILES[name])
  assert argument == "128:x"
  assert shipped.locate(name) == path


def test_a_file_wins_over_a_shipped_config(tmp_path, monkeypatch):
  """The file ending distinguishes a file from a shipped config."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "biggan.py").write_text("")
  assert shipped.locate("biggan.py:128") == "biggan.py:128"
  path, _, _ = shipped.locate("biggan:128").partition(":")
  assert pathlib.Path(path).samefile(FILES["biggan"])
  # A folder of the same name, such as a run's, is not a config.
  (tmp_path / "sngan").mkdir()
  assert pathlib.Path(shipped.locate("sngan")).samefile(FILES["sngan"])
  (tmp_path / "jft").write_text("")
  assert shipped.locate("jft") == "jft"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
  "form", ["--config=fashion_r3gann", "--config fashion"]
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(
  command, form, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  message = refusal(capsys, *command, *form.split())
  value = re.split("[= ]", form)[1]
  assert f"{value!r} is neither a file nor the name of a shipped" in message
  assert "did you mean --config=fashion_r3gan?" in message
  assert ", ".join(sorted(FILES)) in message
  assert not [*tmp_path.iterdir()], "a refused command leaves nothing behind"


@pytest.mark.parametrize(
  ("value", "word"),
  [
    ("configs/fashion_r3gan.py", "give --config=fashion_r3gan ("),
    ("elsewhere/configs/jft.py:64", "give the path of a file, or a name"),
    ("sweeps/collapse.py", "give --config=sweeps/collapse ("),
    ("", "the value is empty"),
    (".", "'.' is neither"),
    ("/", "'/' is neither"),
    ("..", "'..' is neither"),
    ("sweeps", "'sweeps' is neither"),
    ("__init__", "'__init__' is neither"),
    ("my_config.py", "'my_config.py' is neither a file"),
    ("a\0b", "is neither a file"),
    ("x" * 5000, "is neither a file"),
  ],
)
def test_values_that_are_not_configs(
  value, word, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  message = refusal(capsys, "train", f"--config={value}", "--workdir=run")
  assert word in message
  assert message.count("\n") == 1


@pytest.mark.parametrize(
  ("value", "words"),
  [
    ("fashion_r3gan:16", "fashion_r3gan takes no argument; leave :16 out"),
    ("sweeps/collapse", "bigscale scaling sweep"),
  ],
)
def test_a_config_that_does_not_fit_the_command(value, words, capsys):
  message = refusal(capsys, "train", f"--config={value}", "--workdir=run")
  assert words in message
  assert message.count("\n") == 1


def test_a_user_config_can_import_a_shipped_one(tmp_path, monkeypatch, capsys):
  """This needs neither PYTHONPATH nor a checkout."""
  monkeypatch.chdir(tmp_path)
  path = tmp_path / "mine.py"
  path.write_text(
    "from bigscale.configs import fashion_r3gan\n"
    "def get_config():\n"
    "  config = fashion_r3gan.get_config()\n"
    "  config.global_batch_size = -7\n"
    "  return config\n"
  )
  message = refusal(capsys, "train", "--config=mine.py", "--workdir=run")
  assert "global_batch_size=-7" in message


def test_no_shipped_config_imports_from_the_checkout():
  for path in (ROOT / "configs").rglob("*.py"):
    assert not re.search(
      r"^(from|import) configs\b", path.read_text(), re.MULTILINE
    ), path
