"""Tests of saved steps: what is loaded, what is refused, and why."""

import dataclasses
import json
import logging
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigscale.parallel.mesh import make_mesh
from bigscale.parallel.sharding import replicated
from bigscale.spec import MeshSpec, SpecError, from_config
from bigscale.train import executable
from bigscale.train.build import Built
from tests.e2e import tiny


def built_on(devices, **changes):
  """The functions of a run with a step that compiles at once."""
  spec = dataclasses.replace(from_config(tiny.get_config()), **changes)
  mesh = make_mesh(MeshSpec(), devices)
  where = replicated(mesh)
  number = jax.ShapeDtypeStruct((), jnp.float32, sharding=where)

  def step(state, batch, shown=0.0):
    total = state["w"] + batch + shown
    return {"w": total}, {"g/loss": total * 2, "d/loss": total}

  return Built(
    spec=spec,
    mesh=mesh,
    model=None,
    abstract_state={"w": number},
    abstract_batch=number,
    init=None,
    step=jax.jit(step, donate_argnums=0, out_shardings=where),
    abstract_heldout=None,
    probe=None,
    sample=None,
  )


@pytest.fixture
def saved(tmp_path):
  """A run's functions on one device, and the file of its step."""
  built = built_on(jax.devices()[:1])
  path = tmp_path / executable.FILE
  lowered = built.step.lower(built.abstract_state, built.abstract_batch)
  executable.write(path, built, lowered.compile())
  return built, path


def numbers(step, *inputs):
  state, scalars = step({"w": jnp.float32(1)}, jnp.float32(2), *inputs)
  return float(state["w"]), {k: float(v) for k, v in scalars.items()}


def test_a_saved_step_computes_the_same(saved, tmp_path, caplog):
  built, path = saved
  for found in (
    executable.with_saved_step(built, tmp_path),
    executable.with_saved_step(built, tmp_path / "new", str(path)),
  ):
    assert isinstance(found.step, executable.LoadedStep)
    assert numbers(found.step) == (3.0, {"d/loss": 3.0, "g/loss": 6.0})
    # A run whose batch size has changed has a third input.
    assert numbers(found.step, np.float32(4))[0] == 7.0
  assert found.step.lower(built.abstract_state, built.abstract_batch)
  assert not caplog.records


def test_a_run_without_a_file(saved, tmp_path, caplog):
  built, _ = saved
  assert executable.with_saved_step(built, tmp_path / "new") is built
  assert not caplog.records


def test_settings_that_do_not_change_the_step(saved, tmp_path):
  built, _ = saved
  spec = built.spec
  other = dataclasses.replace(
    spec,
    seed=5,
    log=dataclasses.replace(spec.log, steps=7),
    checkpoint=dataclasses.replace(spec.checkpoint, keep=9),
  )
  found = executable.with_saved_step(built._replace(spec=other), tmp_path)
  assert isinstance(found.step, executable.LoadedStep)


def warning_of(built, tmp_path, caplog):
  with caplog.at_level(logging.WARNING):
    found = executable.with_saved_step(built, tmp_path)
  assert found is built
  (record,) = caplog.records
  assert "bigscale compile" in record.getMessage()
  return record.getMessage()


def test_another_config_is_compiled(saved, tmp_path, caplog):
  built, _ = saved
  optim = dataclasses.replace(built.spec.optim, d_steps=2)
  other = built._replace(spec=dataclasses.replace(built.spec, optim=optim))
  found = warning_of(other, tmp_path, caplog)
  assert "compiled from other settings of the run;" in found


def test_other_versions_are_compiled(saved, tmp_path, caplog, monkeypatch):
  built, _ = saved
  real = executable.compiler.versions()
  monkeypatch.setattr(
    executable.compiler, "versions", lambda: real | {"jaxlib": "9.9"}
  )
  found = warning_of(built, tmp_path, caplog)
  assert f"versions (jaxlib {real['jaxlib']}, here 9.9)" in found


def test_other_devices_are_refused_if_the_file_was_named(
  saved, tmp_path, caplog
):
  _, path = saved
  four = built_on(jax.devices()[:4])
  with pytest.raises(SpecError, match=r"it is for .*, but this run has 4x1"):
    executable.with_saved_step(four, tmp_path, str(path))
  assert "but this run has 4x1" in warning_of(four, tmp_path, caplog)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04half", None])
def test_a_file_that_cannot_be_read(saved, tmp_path, caplog, content):
  built, path = saved
  if content is None:  # An archive of something else.
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("key.json", "{}")
  else:
    path.write_bytes(content)
  with pytest.raises(SpecError, match="is not a saved step"):
    executable.with_saved_step(built, tmp_path, str(path))
  with pytest.raises(SpecError, match="is not a saved step"):
    executable.with_saved_step(built, tmp_path, str(tmp_path / "missing"))
  assert "cannot be read" in warning_of(built, tmp_path, caplog)


def test_a_program_that_the_devices_refuse(saved, tmp_path, caplog):
  built, path = saved
  with zipfile.ZipFile(path) as archive:
    key = json.loads(archive.read("key.json"))
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("key.json", json.dumps(key))
    archive.writestr("program", b"not a program")
  assert "cannot load it" in warning_of(built, tmp_path, caplog)
