import marked_set
import pytest


@pytest.fixture
def marked():
  return marked_set.images()


@pytest.fixture
def directory(tmp_path, marked):
  """The marked images in five shards, with label i mod 3 for image i."""
  path = str(tmp_path / "marked")
  marked_set.write(path, marked)
  return path
