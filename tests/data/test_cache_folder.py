"""Tests of the cache folder."""

import pathlib

import pytest

from bigscale import cache_folder
from bigscale.plan import make


@pytest.mark.parametrize("chosen", ["~/kept", ""])
def test_the_variable_may_start_with_a_tilde(monkeypatch, chosen):
  monkeypatch.setenv("HOME", "/home/of")
  monkeypatch.setenv(cache_folder.ENVIRONMENT, chosen)
  base = "/home/of/kept" if chosen else "/home/of/.cache/bigscale"
  assert cache_folder.directory() == base
  assert make.folder() == pathlib.Path(base) / "plans"
