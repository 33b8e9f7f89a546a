import os
import signal
import subprocess
import sys
import time

import pytest
from built_set import (
  NoiseSource,
  contents,
  encoded,
  noise,
  options,
  rejects,
  save,
)

from bigscale.data.build import build
from bigscale.data.folders import FolderSource
from bigscale.data.manifest import DataError

HERE = os.path.dirname(__file__)
ROOT = os.path.dirname(os.path.dirname(HERE))


KILLED = """
import sys
sys.path.insert(0, {here!r})
from built_set import NoiseSource
from bigscale.data.build import build
from bigscale.data.recipe import BuildOptions
if __name__ == "__main__":
  build(
    {{"train": NoiseSource(120, bad=(3,), seconds=0.02)}},
    {path!r},
    BuildOptions(name="set", encoding="raw", records_per_shard=10,
      max_bad_fraction=0.1, dedup={dedup!r}, workers={workers}),
  )
"""


def finished(path):
  if not os.path.isdir(path):
    return []
  return [name for name in os.listdir(path) if name.endswith("record.done")]


@pytest.mark.parametrize(("dedup", "workers"), [("none", 1), ("exact", 2)])
def test_a_killed_build_resumes(tmp_path, dedup, workers):
  path = str(tmp_path / "killed")
  script = tmp_path / "script.py"
  script.write_text(
    KILLED.format(here=HERE, path=path, dedup=dedup, workers=workers)
  )
  process = subprocess.Popen(
    [sys.executable, str(script)],
    stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": ROOT},
  )
  deadline = time.monotonic() + 60
  while not finished(path) and time.monotonic() < deadline:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  # Returns when all processes have closed the pipe, including the workers.
  process.communicate(timeout=30)
  assert process.returncode == -signal.SIGKILL
  before = set(finished(path))
  assert 1 <= len(before) < 12
  assert not os.path.exists(os.path.join(path, "manifest.json"))
  times = {
    name: os.stat(os.path.join(path, name.removesuffix(".done"))).st_mtime_ns
    for name in before
  }
  # Resuming requires an equal identity, so this source equals the first.
  source = NoiseSource(120, bad=(3,))
  settings = options(dedup=dedup, max_bad_fraction=0.1)
  report = build({"train": source}, path, settings)
  assert report.shards_kept == len(before) == 12 - report.shards_written
  build({"train": source}, str(tmp_path / "whole"), settings)
  assert contents(path) == contents(tmp_path / "whole")
  assert [row["index"] for row in rejects(path)] == [3]
  for name, when in times.items():
    shard = os.path.join(path, name.removesuffix(".done"))
    assert os.stat(shard).st_mtime_ns == when


def interrupt(path, source, made):
  """Interrupts a build after its second shard."""

  def stop(done, total):
    if done >= 20:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    build({"train": source}, path, made, stop)


def test_incomplete_files_are_written_again(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(40)
  interrupt(path, source, options())
  shards = sorted(n.removesuffix(".done") for n in finished(path))
  os.truncate(os.path.join(path, shards[0]), 100)
  with open(os.path.join(path, f"{shards[1]}.done"), "w") as file:
    file.write('{"file": ')
  with open(os.path.join(path, "train-00003.partial"), "w") as file:
    file.write("torn")
  report = build({"train": source}, path, options())
  assert (report.shards_written, report.shards_kept) == (4, 0)
  build({"train": source}, str(tmp_path / "whole"), options())
  assert contents(path) == contents(tmp_path / "whole")


def test_a_different_build_does_not_resume_it(tmp_path):
  path = str(tmp_path / "set")
  interrupt(path, NoiseSource(40), options())
  with pytest.raises(DataError, match=r"crop was 'center', is 'none'.*remove"):
    build({"train": NoiseSource(40)}, path, options(crop="none"))
  with pytest.raises(DataError, match=r"train was 'noise:40.*is 'noise:41"):
    build({"train": NoiseSource(41)}, path, options())
  free = options(workers=2, max_bad_fraction=0.5)
  assert build({"train": NoiseSource(40)}, path, free).shards_kept == 2
  with pytest.raises(DataError, match="already contains a data set"):
    build({"train": NoiseSource(40)}, path, options())


def test_a_changed_input_does_not_resume_the_build(tmp_path):
  """An image has new pixels, but the same name and size in bytes."""
  files = {f"{i:02d}.bmp": encoded(noise(8, i), "BMP") for i in range(40)}
  folder, path = save(tmp_path / "in", files), str(tmp_path / "set")
  interrupt(path, FolderSource(folder, "train", 0.0), options())
  save(folder, {"07.bmp": encoded(noise(8, 99), "BMP")})
  with pytest.raises(DataError, match=r"train was 'folder/train@.*, is 'fol"):
    build({"train": FolderSource(folder, "train", 0.0)}, path, options())
  save(folder, {"07.bmp": files["07.bmp"]})
  again = build({"train": FolderSource(folder, "train", 0.0)}, path, options())
  assert again.shards_kept == 2


def test_stopped_after_writing_the_manifest(tmp_path, monkeypatch):
  path, source = str(tmp_path / "set"), NoiseSource(30)

  def stop(directory):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr("bigscale.data.build._remove_helpers", stop)
    with pytest.raises(KeyboardInterrupt):
      build({"train": source}, path, options())
  assert finished(path)
  assert build({"train": source}, path, options()).shards_kept == 3
  assert len(os.listdir(path)) == 4


def test_a_concurrent_build_is_rejected(tmp_path):
  path, source = str(tmp_path / "set"), NoiseSource(20)

  def again(done, total):
    with pytest.raises(DataError, match="another build is writing"):
      build({"train": source}, path, options())

  build({"train": source}, path, options(), again)
