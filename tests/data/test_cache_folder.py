"""Where what was costly to compute is kept."""

import pathlib

import pytest

from bigscale import cache_folder
from bigscale.plan import make


@pytest.mark.parametrize("chosen", ["~/kept", ""])
def test_home_is_found_in_the_variable_too(monkeypatch, chosen):
  monkeypatch.setenv("HOME", "/home/of")
  monkeypatch.setenv(cache_folder.ENVIRONMENT, chosen)
  base = "/home/of/kept" if chosen else "/home/of/.cache/bigscale"
  assert cache_folder.directory() == base
  assert make.folder() == pathlib.Path(base) / "plans"
