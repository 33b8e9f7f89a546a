"""Several networks embed the same samples, and one of them fails."""

import numpy as np
import pytest

from bigscale.metrics.features import Embedding
from bigscale.metrics.looking import Asked, look
from bigscale.metrics.pixels import ImageSelection
from bigscale.parallel import interruption

COUNT, BATCH = 24, 8


class Corner:
  """A network whose features are pixels in a corner, optionally changed."""

  dimension = 3
  num_classes = 2

  def __init__(self, name, change=lambda features: features):
    self.name = name
    self.change = change
    self.embedded = 0

  def embed(self, images):
    self.embedded += len(images)
    features = self.change(images[:, 0, :3, 0].astype(np.float32))
    return Embedding(features, np.full((len(images), 2), 0.5, np.float32))


def nan(features):
  return np.where(np.arange(len(features))[:, None] == 1, np.nan, features)


def no_memory(features):
  raise MemoryError("Unable to allocate 9 GiB")


def batches():
  rng = np.random.default_rng(0)
  for _ in range(COUNT // BATCH):
    images = rng.integers(0, 256, (BATCH, 22, 22, 1), np.uint8)
    yield images, np.zeros(BATCH, np.int32)


def asked(*networks, pixels=()):
  kinds = (("fd",),) * len(networks)
  return Asked(networks, kinds, COUNT, 2, pixels)


@pytest.mark.parametrize(
  ("change", "words"), [(nan, "1 of 8 samples"), (no_memory, "9 GiB")]
)
def test_a_failing_network_does_not_stop_the_others(change, words):
  failing, working = Corner("failing", change), Corner("working")
  looked = look(asked(failing, working), batches())
  assert looked.failed.keys() == {"failing"}
  assert words in str(looked.failed["failing"])
  assert looked.seen[1].moments.count == COUNT
  # It is not used again.
  assert (failing.embedded, working.embedded) == (BATCH, COUNT)


def test_with_several_processes_a_failing_network_keeps_embedding(monkeypatch):
  """The devices of the others share every batch."""
  monkeypatch.setattr("jax.process_count", lambda: 2)
  failing = Corner("failing", nan)
  looked = look(asked(failing), batches())
  assert failing.embedded == COUNT
  assert "1 of 8 samples" in str(looked.failed["failing"])


def test_failing_pixel_scores_do_not_stop_the_networks(monkeypatch):
  monkeypatch.setattr("bigscale.metrics.pixels.np.unique", no_memory)
  pixels = (ImageSelection("ms_ssim", (22, 22, 1)),)
  looked = look(asked(Corner("x"), pixels=pixels), batches())
  assert "9 GiB" in str(looked.kept["ms_ssim"])
  assert not looked.failed
  assert looked.seen[0].moments.count == COUNT


def test_look_is_interrupted_between_batches():
  network, answers = Corner("x"), iter([False, True])
  with (
    pytest.raises(interruption.InterruptedWorkError),
    interruption.asking(lambda: next(answers)),
  ):
    look(asked(network), batches())
  assert network.embedded == BATCH
  # Outside the context, nothing is called.
  interruption.point()


def test_interruption_is_not_handled_as_an_error():
  with interruption.asking(lambda: True):
    try:
      interruption.point()
    except Exception:
      raise AssertionError("it was handled as an error") from None
    except interruption.InterruptedWorkError:
      return
  raise AssertionError("it was not interrupted")
