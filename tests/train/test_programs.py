"""Tests of the compilation cache in a run's folder."""

import dataclasses
import logging
import zlib

import jax
import jax.numpy as jnp
import pytest

from bigscale.spec import from_config
from bigscale.train import programs
from tests.e2e import tiny

SPEC = from_config(tiny.get_config())


@pytest.fixture
def no_cache():
  """JAX without the cache that the tests share."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  programs.compilation_cache.reset_cache()
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  programs.compilation_cache.reset_cache()


def settings():
  return [getattr(jax.config, name) for name in programs._SETTINGS] + [
    jax.config.jax_compilation_cache_dir
  ]


def test_programs_are_kept_while_the_run_is_open(
  no_cache, tmp_path, monkeypatch
):
  monkeypatch.setitem(
    programs._SETTINGS, "jax_persistent_cache_min_compile_time_secs", 0.0
  )
  before = settings()
  jax.jit(lambda x: x + 1)(jnp.zeros(3))
  cache = programs.ProgramCache(tmp_path, SPEC)
  assert list(tmp_path.iterdir()) == []
  cache.open()
  jax.jit(lambda x: x * 3.25)(jnp.zeros(3))
  cache.close()
  kept = list(tmp_path.glob("programs/cpu-*/*-cache"))
  assert kept
  assert settings() == before
  jax.jit(lambda x: x * 7.5)(jnp.zeros(3))
  assert list(tmp_path.glob("programs/cpu-*/*-cache")) == kept
  cache.close()


def test_the_cache_can_be_off(no_cache, tmp_path):
  off = dataclasses.replace(SPEC.operations, keep_programs=False)
  before = settings()
  programs.ProgramCache(
    tmp_path, dataclasses.replace(SPEC, operations=off)
  ).open()
  assert settings() == before


def test_a_cache_of_the_user_is_kept(no_cache, tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
  before = settings()
  programs.ProgramCache(tmp_path, SPEC).open()
  assert settings() == before


def test_incomplete_programs_are_removed(tmp_path, caplog):
  whole = zlib.compress(bytes(range(256)) * 10)
  contents = {
    "whole": whole,
    "half": whole[:-9],
    "empty": b"",
    "damaged": whole[:9] + b"\0\0\0\0" + whole[13:],
    "zstandard": b"\x28\xb5\x2f\xfd and more",
  }
  for name, content in contents.items():
    (tmp_path / f"{name}-cache").write_bytes(content)
  (tmp_path / "notes").write_bytes(b"")
  with caplog.at_level(logging.WARNING):
    programs.remove_incomplete(tmp_path)
    programs.remove_incomplete(tmp_path / "missing")
  kept = {path.name for path in tmp_path.iterdir()}
  assert kept == {"whole-cache", "zstandard-cache", "notes"}
  assert len(caplog.records) == 3
