"""`bigscale import` and `export`, and other commands on an imported run."""

import functools
import json
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from bigscale.cli.common import load
from bigscale.cli.main import main
from bigscale.train.checkpoint import Checkpoints
from bigscale.train.step import Codes, generate
from tests.e2e import tiny

_GOLDEN = Path(__file__).parents[1] / "golden"
_TINY = f"--config={tiny.__file__}"


def bigscale(*args: object) -> int:
  """Runs the program in this process; flags are reset on each call."""
  return main(["bigscale", *map(str, args)])


def refused(capsys, *args: object) -> str:
  """Runs a command that must fail with one message; returns the message."""
  capsys.readouterr()
  assert bigscale(*args) == 2
  captured = capsys.readouterr()
  assert "Traceback" not in captured.err + captured.out
  assert captured.err.startswith("bigscale: ")
  return captured.err


def golden(stem: str) -> dict[str, np.ndarray]:
  with np.load(_GOLDEN / f"{stem}.npz") as data:
    return dict(data)


def players(data, names="GD") -> dict[str, np.ndarray]:
  """Returns only the tensors of the networks, with their prefixes."""
  return {k: x for k, x in data.items() if k[0] in names and k[1] == "/"}


# Imports of the authors' weights.


@pytest.fixture(scope="module")
def r3gan_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("r3gan")
  np.savez(folder / "w.npz", **players(golden("r3gan_conditional_16px")))
  run = folder / "run"
  what = ["--format=r3gan", folder / "w.npz", "--source=emoji"]
  assert bigscale("import", *what, f"--out={run}") == 0
  return run


@pytest.fixture(scope="module")
def biggan_run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("biggan")
  data = players(golden("biggan_64px_f64"))
  for name in "GD":
    tensors = {k[2:]: x for k, x in data.items() if k[0] == name}
    np.savez(folder / f"{name}.npz", **tensors)
  run = folder / "run"
  what = ["--format=biggan-pytorch", folder / "G.npz", folder / "D.npz"]
  assert bigscale("import", *what, f"--out={run}") == 0
  return run


@functools.cache
def loaded(run: Path):
  """Returns the newest checkpoint, loaded as in `sample`."""
  return load(str(run), None)


def drawn(run, latents, labels) -> np.ndarray:
  """Returns float images of the moving average in the layout NCHW."""
  trained = loaded(run)
  program = jax.jit(
    lambda ema, z, y: generate(
      trained.built.model, trained.spec, ema, Codes(z, y)
    ),
  )
  images = program(trained.ema, latents, labels.astype("i4"))
  return np.moveaxis(np.asarray(images), -1, 1)


@pytest.mark.parametrize(
  ("run", "stem", "labels", "out"),
  [
    ("r3gan_run", "r3gan_conditional_16px", "in/labels", "out/G"),
    pytest.param(
      *("biggan_run", "biggan_64px_f64", "in/y", "out/G_eval"),
      marks=pytest.mark.slow,
    ),
  ],
)
def test_an_import_generates_the_authors_images(
  run, stem, labels, out, request
):
  data = golden(stem)
  images = drawn(request.getfixturevalue(run), data["in/z"], data[labels])
  scale = np.abs(data[out]).max()
  np.testing.assert_allclose(images, data[out], rtol=0, atol=1e-5 * scale)


def restored(run):
  """Returns the whole checkpoint of step 0."""
  trained = loaded(run)
  checkpoints = Checkpoints(run, trained.spec.checkpoint)
  found = checkpoints.restore(trained.built.abstract_state, 0)
  checkpoints.close()
  return found


def test_both_networks_and_all_singular_values_are_in_the_checkpoint(
  biggan_run,
):
  data = golden("biggan_64px_f64")
  found = restored(biggan_run)
  state = found.state
  assert (int(state.step), found.step) == (0, 0)
  assert found.data == {"records_consumed": 0}
  for player, name in ((state.g, "G"), (state.d, "D")):
    spectrum = player.spectra["block0/conv1/kernel"]
    for rank in range(3):
      prefix = f"{name}/blocks.0.0.conv1"
      np.testing.assert_array_equal(
        spectrum.u[rank], data[f"{prefix}.u{rank}"][0]
      )
      assert spectrum.sigma[rank] == data[f"{prefix}.sv{rank}"][0]
    assert not any(map(np.any, jax.tree.leaves(player.optimizer)))
  np.testing.assert_array_equal(
    state.d.params["projection"]["embedding"], data["D/embed.weight"]
  )
  notes = found.meta["imported"]
  assert notes["discriminator"] == "D.npz"
  assert [file["name"] for file in notes["files"]] == ["G.npz", "D.npz"]


def test_sample_and_spec_of_an_import(r3gan_run, tmp_path):
  out = tmp_path / "a.png"
  assert bigscale("sample", f"--workdir={r3gan_run}", f"--out={out}") == 0
  with Image.open(out) as image:
    assert image.size[0] > 8 * 16
  spec = json.loads((r3gan_run / "spec.json").read_text())
  assert spec["spec"]["data"]["source"] == "emoji"
  assert "--format=r3gan" in spec["command"]
  assert not list(r3gan_run.parent.glob(".*")), "nothing temporary is left"


def test_export_of_an_import(r3gan_run, tmp_path, capsys):
  out = tmp_path / "g.hlo"
  where = [f"--workdir={r3gan_run}", f"--out={out}"]
  assert bigscale("export", *where, "--platforms=cpu,tpu") == 0
  assert f"{out}.json" in capsys.readouterr().out
  header = json.loads(Path(f"{out}.json").read_text())
  assert (header["latent_dim"], header["platforms"]) == (8, ["cpu", "tpu"])


# Statistics.


def test_import_of_statistics(tmp_path, capsys):
  path = tmp_path / "fid.npz"
  np.savez(path, mu=np.arange(4.0), sigma=np.eye(4))
  out = tmp_path / "stats"
  options = ["--format=stats", path, f"--out={out}"]
  assert bigscale("import", *options) == 0
  assert "4 features" in capsys.readouterr().out
  with np.load(out / "statistics.npz") as arrays:
    np.testing.assert_array_equal(arrays["mu"], np.arange(4.0))
  assert "not empty" in refused(capsys, "import", *options)
  message = refused(capsys, "import", *options, "--source=emoji")
  assert "--source has no effect" in message


# Invalid input.


@pytest.fixture
def files(tmp_path):
  """A folder with valid and invalid files."""
  data = players(golden("r3gan_unconditional_8px"))
  g = {k[2:]: x for k, x in data.items() if k[0] == "G"}
  made = {
    "good": g,
    "whole": data,
    "lacking": {k: x for k, x in g.items() if "Bias" not in k},
    "beside": {**data, "in/z": np.zeros((2, 6))},
    "objects": {"a": np.array([{}], dtype=object)},
    "empty": {},
  }
  for name, tensors in made.items():
    np.savez(tmp_path / f"{name}.npz", **tensors)
  whole = (tmp_path / "good.npz").read_bytes()
  (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "G.pth").write_bytes(b"x")
  (tmp_path / "G.pkl").write_bytes(b"x")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "a").write_text("mine")
  return tmp_path


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("good.npz", ("--format is missing",)),
    ("--format=keras good.npz", ("--format=keras", "biggan-hf", "stats")),
    ("--format=r3gan", ("no file was named", "FILE")),
    ("--format=r3gan a b c", ("unexpected argument 'c'",)),
    ("--format=r3gan nowhere.npz", ("no file", "nowhere.npz")),
    ("--format=r3gan good.npz nowhere.npz", ("no file", "nowhere.npz")),
    ("--format=r3gan good.npz --ema=cut.npz", ("cut.npz", "truncated")),
    ("--format=r3gan lacking.npz", ("6 tensors", "NonLinearity2.Bias (32,)")),
    ("--format=r3gan beside.npz", ("extra in/z (2, 6)",)),
    ("--format=r3gan whole.npz good.npz", ("both contain a discriminator",)),
    ("--format=r3gan objects.npz", ("Python objects",)),
    ("--format=r3gan empty.npz", ("MainLayers",)),
    ("--format=r3gan G.pth", ("bigscale[torch]",)),
    ("--format=r3gan G.pkl", ("--unsafe_pickle",)),
    ("--format=r3gan G.pkl --unsafe_pickle", ("G.pkl cannot be read",)),
    ("--format=biggan-pytorch good.npz", ("use that --format",)),
    (f"--format=biggan-hf good.npz {_TINY}", ("'r3gan'", "biggan_deep")),
    (f"--format=r3gan good.npz {_TINY}", ("latent_dim=8", "shapes imply 6")),
    (f"--format=r3gan good.npz {_TINY} --source=emoji", ("data.source=emoji",)),
    ("--format=r3gan good.npz --out=full", ("full", "not empty")),
    ("--format=stats good.npz", ("mu and sigma",)),
    ("--format=stats good.npz good.npz", ("a second file",)),
    ("--format=stats G.pkl", ("--unsafe_pickle",)),
  ],
)  # fmt: skip
def test_import_errors(options, words, files, capsys, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  monkeypatch.chdir(files)
  before = sorted(files.rglob("*"))
  out = () if "--out" in options else ("--out=run",)
  message = refused(capsys, "import", *options.split(), *out)
  for word in words:
    assert word in message
  assert sorted(files.rglob("*")) == before, "a refusal leaves nothing behind"


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ("--out={tmp}/g.hlo", "--workdir is missing"),
    ("--workdir={run}", "--out is missing"),
    ("--workdir={tmp}/no --out={tmp}/g.hlo", "contains no run"),
    ("--workdir={run} --out={tmp}/no/g.hlo", "there is no folder"),
    ("--workdir={run} --out={tmp}", "is a folder"),
    ("--workdir={run} --out={tmp}/g --step=3", "no checkpoint of step 3"),
    ("--workdir={run} --out={tmp}/g --platforms=abacus", "cpu, tpu, cuda"),
  ],
)
def test_export_errors(options, words, r3gan_run, tmp_path, capsys):
  filled = options.format(run=r3gan_run, tmp=tmp_path)
  assert words in refused(capsys, "export", *filled.split())
  assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_files(files, monkeypatch, capsys):
  save = Checkpoints.save

  def full(self, *arguments):
    save(self, *arguments)
    raise OSError(28, os.strerror(28))

  monkeypatch.setattr(Checkpoints, "save", full)
  before = sorted(files.rglob("*"))
  what = ["--format=r3gan", files / "whole.npz", f"--out={files / 'run'}"]
  message = refused(capsys, "import", *what)
  assert "No space left" in message
  assert sorted(files.rglob("*")) == before


def test_init_from_nothing(tmp_path, capsys):
  options = [f"--workdir={tmp_path / 'new'}", f"--init_from={tmp_path}"]
  message = refused(capsys, "train", _TINY, *options)
  assert "contains no run with a checkpoint" in message
  assert not (tmp_path / "new").exists(), "a refused run leaves nothing behind"


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_has_an_example(command, capsys):
  assert bigscale(command, "--help") == 0
  assert f"bigscale {command} --" in capsys.readouterr().out
