"""Every command and subcommand accepts only its own flags."""

import dataclasses
import importlib
import keyword
import subprocess
import sys
from typing import Literal

import pytest

from bigscale.cli.flags import Flags
from bigscale.cli.main import COMMANDS, main
from bigscale.spec import SpecError


def module_of(command):
  name = f"{command}_" if keyword.iskeyword(command) else command
  return importlib.import_module(f"bigscale.cli.{name}")


def flags_of():
  """Returns the flag names of every `command` or `command part`."""
  found = {}
  for command in COMMANDS:
    module = module_of(command)
    for part in getattr(module, "PARTS", ()):
      known = importlib.import_module(f"{module.__name__}.{part}").FLAGS
      found[f"{command} {part}"] = set(known)
    if not hasattr(module, "PARTS"):
      found[command] = set(module.FLAGS)
  return found


FLAGS = flags_of()
SIBLINGS = [
  (title, other, flag)
  for title, known in FLAGS.items()
  for other, others in FLAGS.items()
  if title != other and title.split()[0] == other.split()[0]
  for flag in sorted(others - known)
]


def refused(capsys, title, *words):
  assert main(["bigscale", *title.split(), *words]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert captured.err.startswith("bigscale: ")
  assert captured.err.count("\n") == 1
  return captured.err


def test_commands_have_parts():
  """The parameters of the tests below are not empty."""
  assert {title.split()[0] for title in FLAGS} == set(COMMANDS)
  assert len({title for title, _, _ in SIBLINGS}) >= 8


@pytest.mark.parametrize("title", FLAGS)
@pytest.mark.parametrize("words", [("--nonsense=3",), ("x", "--nonsense")])
def test_an_unknown_flag_is_an_error(title, words, capsys):
  said = refused(capsys, title, *words)
  assert f"{title} has no flag --nonsense" in said


@pytest.mark.parametrize(("title", "other", "flag"), SIBLINGS)
def test_a_flag_of_another_subcommand_is_an_error(title, other, flag, capsys):
  said = refused(capsys, title, "x", f"--{flag}=abc")
  assert f"{title} has no flag --{flag}" in said
  assert other.split()[1] in said.partition("which is a flag of ")[2]


@pytest.mark.parametrize("title", FLAGS)
def test_help_has_an_example_and_only_its_own_flags(title, capsys):
  assert main(["bigscale", *title.split(), "--help"]) == 0
  lines = capsys.readouterr().out.splitlines()
  shown = [
    line.split()[0].removeprefix("--").partition("=")[0]
    for line in lines
    if line.startswith("  --")
  ]
  known = {name for name in FLAGS[title] if name not in ("?", "help")}
  assert sorted(shown) == sorted(known)
  assert lines[1:3] == ["", "Example:"]
  assert lines[3].startswith(f"  bigscale {title} ")
  assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", ["scaling", "monitor", "data"])
def test_help_of_a_command_lists_its_subcommands(command, capsys):
  assert main(["bigscale", command, "--help"]) == 0
  said = capsys.readouterr().out
  for name in module_of(command).PARTS:
    assert f"\n  {name} " in said


@pytest.mark.parametrize("command", ["scaling", "monitor", "data", "bench"])
@pytest.mark.parametrize("words", [(), ("nonsense",), ("--json",)])
def test_an_unknown_subcommand_is_an_error(command, words, capsys):
  said = refused(capsys, command, *words)
  assert f"is unknown; use: bigscale {command} " in said


def test_flags_may_precede_the_subcommand(tmp_path, capsys):
  table = tmp_path / "runs.csv"
  table.write_text(
    "run,status,images,collapsed_step,steps\na,done,1,,9\nb,collapsed,2,3,9\n"
  )
  words = ["--json", "survival", str(table), "--x=images"]
  assert main(["bigscale", "scaling", *words]) == 0
  assert '"column": "images"' in capsys.readouterr().out


def test_no_flag_has_the_name_of_a_method():
  """Otherwise the flag could not be read as an attribute."""
  for title, known in FLAGS.items():
    assert not known & {name for name in dir(Flags) if name[0] != "_"}, title


@dataclasses.dataclass(frozen=True)
class _Options:
  name: str
  size: int = 3
  scale: float = 0.5
  padding: int | None = None
  flip: bool = True
  crop: Literal["center", "none"] = "center"


def test_fields_of_a_dataclass_become_flags():
  values = Flags()
  texts = dict.fromkeys(("name", "size", "scale", "padding", "flip"), "text")
  values.fields(_Options, **texts, crop="of the image")
  values.read(["x"])
  assert values.fields_of(_Options) == vars(_Options("")) | {"name": None}
  values.read(["x", "--name=a", "--padding=2", "--noflip", "--crop=none"])
  made = _Options(**values.fields_of(_Options))
  assert made == _Options("a", padding=2, flip=False, crop="none")
  with pytest.raises(SpecError, match=r"--crop.*center"):
    values.read(["x", "--crop=round"])


HEAVY = ("jax", "numpy", "matplotlib", "orbax", "tensorflow", "ml_collections")


@pytest.mark.parametrize(
  "words", ["--help", "report --help", "report --workdir=x", "sample --help"]
)
def test_light_commands_import_no_heavy_modules(words):
  code = (
    "import sys; from bigscale.cli.main import main; main(['', *sys.argv[1:]]);"
    f"assert not [m for m in {HEAVY} if m in sys.modules], sys.modules"
  )
  made = subprocess.run(
    [sys.executable, "-c", code, *words.split()], capture_output=True, text=True
  )
  assert made.returncode == 0, made.stderr


def test_a_subcommand_does_not_import_the_others():
  code = (
    "import sys; from bigscale.cli.main import main;"
    "main(['', 'scaling', 'survival', '--help']);"
    "print([m for m in sys.modules if 'bigscale.cli.scaling.' in m])"
  )
  made = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert made.stdout.endswith("['bigscale.cli.scaling.survival']\n")


def test_a_similar_flag_is_suggested(capsys):
  said = refused(capsys, "scaling fit", "x", "--flopps=3")
  assert "did you mean --flops?" in said


@pytest.mark.parametrize(
  ("words", "flag"),
  [
    (("train",), "virtual_devices"),
    (("train",), "local_processes"),
    (("monitor", "drill"), "fault_seeds"),
    (("monitor", "drill"), "control_seeds"),
  ],
)
def test_counts_must_not_be_negative(words, flag, capsys):
  assert main(["bigscale", *words, f"--{flag}=-1"]) == 2
  assert f"--{flag}=-1" in capsys.readouterr().err


@pytest.mark.parametrize(
  "words",
  [
    ("monitor", "drill", "--out=gs://b/drills"),
    ("evaluate", "--workdir=runs/x", "--neighbours=gs://b/x.png"),
    ("scaling", "report", "--out=s3://b/law.png"),
  ],
)
def test_an_address_is_not_an_output_path(capsys, tmp_path, monkeypatch, words):
  """No folder `gs:` is created."""
  monkeypatch.chdir(tmp_path)
  message = refused(capsys, *words)
  assert f"{words[-1]} is an address, and this must be a path on" in message
  assert not list(tmp_path.iterdir())


def test_the_cache_must_not_be_an_address(capsys, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("BIGSCALE_CACHE", "gs://b/cache")
  message = refused(capsys, "data", "inspect", "emoji")
  assert "$BIGSCALE_CACHE=gs://b/cache is an address" in message
