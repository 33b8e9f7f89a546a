"""The samples drawn for scores, in training, drills and commands."""

import types

import numpy as np

from bigscale.metrics.looking import Asked
from bigscale.spec import EvalSpec
from bigscale.train.drawing import draw_for_scores


def built(batch_size):
  """Returns a fake run whose generator paints the requested latents."""

  def sample(ema, latents, labels):
    image = np.zeros((len(labels), 4, 4, 1), np.uint8)
    image[:, 0, 0, 0] = np.asarray(labels)
    return image

  model = types.SimpleNamespace(num_classes=4, latent_dim=2, dtype="float32")
  spec = types.SimpleNamespace(
    model=model, evaluate=EvalSpec(batch_size=batch_size)
  )
  return types.SimpleNamespace(sample=sample, spec=spec)


def drawn(batch_size, counts):
  asked = Asked((), (), sum(counts), 4, class_counts=counts)
  batches = list(draw_for_scores(built(batch_size), None, asked))
  images, labels = map(np.concatenate, zip(*batches, strict=True))
  np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
  return labels


def test_scored_samples_have_the_classes_of_the_reals():
  counts = (61, 0, 7, 2)
  labels = drawn(25, counts)
  np.testing.assert_array_equal(np.bincount(labels, minlength=4), counts)
  # The samples do not depend on the batch size.
  np.testing.assert_array_equal(labels, drawn(70, counts))
  np.testing.assert_array_equal(labels, drawn(9, counts))


def test_without_classes_of_the_reals_all_classes_take_turns():
  asked = Asked((), (), 8, 4)
  ((_, labels),) = draw_for_scores(built(8), None, asked)
  np.testing.assert_array_equal(labels, np.arange(8) % 4)
