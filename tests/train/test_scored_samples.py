"""What is drawn for scores, in training, drills and from the command line."""

import types

import numpy as np

from bigscale.metrics.looking import Asked
from bigscale.spec import EvalSpec
from bigscale.train.hooks import draw_for_scores


def built(batch_size):
  """A generator that paints what it is asked for, in place of a run's."""

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


def test_scored_samples_are_of_the_classes_of_the_reals():
  counts = (61, 0, 7, 2)
  labels = drawn(25, counts)
  np.testing.assert_array_equal(np.bincount(labels, minlength=4), counts)
  # Of samples in batches of any size, the same ones.
  np.testing.assert_array_equal(labels, drawn(70, counts))
  np.testing.assert_array_equal(labels, drawn(9, counts))


def test_without_reals_of_known_classes_all_come_in_turn():
  asked = Asked((), (), 8, 4)
  ((_, labels),) = draw_for_scores(built(8), None, asked)
  np.testing.assert_array_equal(labels, np.arange(8) % 4)
