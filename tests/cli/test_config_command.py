"""`bigscale config` prints every field, and what differs."""

import json

import pytest

from bigscale.cli.main import main


def printed(capsys, *words):
  assert main(["bigscale", "config", *words]) == 0
  return capsys.readouterr().out


def settings_in(text):
  """Returns the lines that are not comments: {path: value and note}."""
  lines = [line for line in text.splitlines() if line and line[0] != "#"]
  return dict(line.split(" = ", 1) for line in lines)


def test_all_fields_are_printed_in_sections(capsys):
  text = printed(capsys, "--config=fashion_r3gan")
  settings = settings_in(text)
  assert settings["seed"] == "0"
  assert settings["model.image_channels"] == "1  # default: 3"
  assert settings["optim.g_lr"] == (
    "{'first': 0.002, 'last': 0.0003, 'kimg': 32.0}"
  )
  assert settings["monitor.verdict.warmup"] == "200"
  assert "\n# ==== optim: " in text
  assert max(map(len, text.splitlines())) < 100


def test_a_printed_value_can_be_given_as_an_override(capsys):
  before = printed(capsys, "--config=fashion_r3gan")
  words = [
    f"--config.{path}={value.partition('  # ')[0].strip(chr(39))}"
    for path, value in settings_in(before).items()
  ]
  words = ["--config=fashion_r3gan", *words]
  assert printed(capsys, *words, "--diff") == "no differences\n"


def test_diff_compares_overrides_with_the_config_file(capsys):
  words = ("--config=biggan:128", "--config.seed=0", "--config.optim.g_lr=1e-4")
  assert settings_in(printed(capsys, *words, "--diff")) == {
    "optim.g_lr": "0.0001  # config file: 5e-05"
  }


def test_diff_without_overrides_compares_with_the_defaults(capsys):
  settings = settings_in(printed(capsys, "--config=biggan:128", "--diff"))
  assert settings["optim.g_lr"] == "5e-05"
  assert settings["optim.d_steps"] == "2  # default: 1"
  assert "optim.beta1" not in settings


def test_json_has_every_fact_of_a_field(capsys):
  words = ("--config=biggan:128", "--config.optim.d_steps=1")
  (row,) = json.loads(printed(capsys, *words, "--json", "--diff"))
  assert row.pop("meaning")
  assert row == {
    "path": "optim.d_steps",
    "type": "int",
    "default": 1,
    "config_file": 2,
    "value": 1,
  }
  rows = json.loads(printed(capsys, "--config=biggan:128", "--json"))
  (rate,) = (row for row in rows if row["path"] == "optim.g_lr")
  assert rate["value"] == {"first": 5e-5, "last": 5e-5, "kimg": 0.0}
  assert "default" not in rate


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ((), "--config is missing"),
    (("--config=fashion_r3gan", "--config.optim.glr=1"), "did you mean 'g_lr'"),
    (("--config=sweeps/collapse",), "--config names a sweep"),
  ],
)
def test_a_wrong_config_is_one_message(capsys, words, message):
  assert main(["bigscale", "config", *words]) == 2
  captured = capsys.readouterr()
  assert captured.out == ""
  assert message in captured.err
  assert captured.err.count("\n") == 1


def test_diff_of_a_file_that_is_not_valid_alone(capsys, tmp_path):
  file = tmp_path / "no_seed.py"
  file.write_text(
    "from bigscale.configs import fashion_r3gan\n"
    "def get_config():\n"
    "  config = fashion_r3gan.get_config()\n"
    "  config.seed = -1\n"
    "  return config\n"
  )
  words = [f"--config={file}", "--config.seed=1", "--diff"]
  assert main(["bigscale", "config", *words]) == 2
  assert "not valid alone: seed=-1" in capsys.readouterr().err
