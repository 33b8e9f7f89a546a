"""A run that is killed at the same step each time is not restarted forever."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from bigscale.train import lives
from bigscale.train.lives import Life
from tests.launch.launching import HOSTS, environ


def save(folder, step, part="checkpoints"):
  (folder / part / str(step)).mkdir(parents=True)
  (folder / part / str(step) / "file").touch()


def row(folder, step):
  with (folder / "metrics.jsonl").open("a") as file:
    file.write(json.dumps({"step": step, "d/loss": 1.0}) + "\n")


def test_the_third_start_without_a_save_is_the_last(tmp_path):
  folder = tmp_path / "run"
  assert [Life(folder).end(76, asked=False)[0] for _ in range(3)] == [76, 76, 1]


def test_the_message_names_the_step_and_a_remedy(tmp_path):
  save(tmp_path, 40)
  save(tmp_path, 8)
  found = [Life(tmp_path).end(76, asked=False) for _ in range(3)]
  assert [why for _, why in found[:2]] == ["", ""]
  row(tmp_path, 43)
  found += [Life(tmp_path).end(76, asked=False) for _ in range(3)]
  for words in ("3 consecutive starts", "step 43", f"{tmp_path}", "fix it"):
    assert words in found[-1][1]


def test_starting_it_again_resets_the_count(tmp_path):
  codes = [Life(tmp_path).end(76, asked=False)[0] for _ in range(6)]
  assert codes == [76, 76, 1] * 2


@pytest.mark.parametrize("part", ["checkpoints", "healthy"])
def test_a_saved_step_is_progress(tmp_path, part):
  for step in range(8):
    life = Life(tmp_path)
    if step % 2:
      save(tmp_path, step, part)
    assert life.end(76, asked=False) == (76, "")


def test_a_later_step_than_before_is_progress(tmp_path):
  for step in range(1, 8):
    life = Life(tmp_path)
    row(tmp_path, step)
    assert life.end(76, asked=False) == (76, "")


def test_repeated_steps_are_not_progress(tmp_path):
  save(tmp_path, 4)
  codes = []
  for _ in range(4):
    life = Life(tmp_path)
    # A resumed run removes the rows after its checkpoint.
    (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
    for step in (5, 6, 7):
      row(tmp_path, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
      file.write('[1]\n{"step": "x"}\n{"st')
    codes.append(life.end(76, asked=False)[0])
  assert codes == [76, 76, 76, 1]


def test_an_incomplete_save_is_not_progress(tmp_path):
  save(tmp_path, 4)
  for code in (76, 76, 1):
    life = Life(tmp_path)
    save(tmp_path, f"8.orbax-checkpoint-tmp-{code}-{os.urandom(3).hex()}")
    assert life.end(76, asked=False)[0] == code


@pytest.mark.parametrize(
  ("code", "asked"), [(75, False), (75, True), (76, True), (0, False), (1, 0)]
)
def test_preemptions_and_other_ends_are_not_counted(tmp_path, code, asked):
  for _ in range(5):
    assert Life(tmp_path).end(code, asked) == (code, "")
  assert not (tmp_path / lives.FILE).exists()


def test_a_preemption_in_between_does_not_reset_the_count(tmp_path):
  ends = [(76, False), (76, True), (76, False), (75, True), (76, False)]
  assert [Life(tmp_path).end(*end)[0] for end in ends] == [76, 76, 76, 75, 1]


def test_supervisors_of_one_run_count_together(tmp_path):
  codes = []
  for _ in range(3):
    hosts = [Life(tmp_path) for _ in range(4)]
    codes.append({host.end(76, asked=False)[0] for host in hosts})
  assert codes == [{76}, {76}, {1}]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"saved": 1, "lost": "x"}'])
def test_a_damaged_record_is_ignored(tmp_path, text):
  (tmp_path / lives.FILE).write_text(text)
  assert Life(tmp_path).end(76, asked=False) == (76, "")


# What `bigscale train --local_processes` does, with another program.
_TRAIN = """
import sys
from bigscale.parallel.local import run_locally
from bigscale.train.lives import Life
folder, program = sys.argv[1:]
life = Life(folder)
code, why = life.end(*run_locally([sys.executable, "-c", program], 1))
print(why, file=sys.stderr)
sys.exit(code)
"""
_CHILD = """
import os, pathlib, signal
folder = pathlib.Path({folder!r})
with (folder / "starts").open("a") as file:
  file.write("x")
starts = len((folder / "starts").read_text())
if starts == 2:
  (folder / "checkpoints" / "4").mkdir(parents=True)
  (folder / "checkpoints" / "4" / "file").touch()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_launchers_stop_after_the_third(tmp_path):
  train = [sys.executable, "-c", textwrap.dedent(_TRAIN), str(tmp_path)]
  child = _CHILD.format(folder=str(tmp_path))
  done = subprocess.run(
    ["bash", str(HOSTS / "restart.sh"), "100", "0", *train, child],
    env=environ(),
    stderr=subprocess.PIPE,
    text=True,
    timeout=60,
  )
  assert done.returncode == 1
  # One start without a save, one with a save, and three without another.
  assert len((tmp_path / "starts").read_text()) == 5
  assert (
    "3 consecutive starts were killed or hung before they got past step 0"
    in done.stderr
  )
