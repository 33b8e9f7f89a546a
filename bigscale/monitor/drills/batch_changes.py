"""Faulty images and labels, as numpy arrays of one step.

Every function takes a random generator, images [K, B, H, W, C] uint8, labels
[K, B] and a strength, and returns a new `Batch`. The strength is the share of
affected samples unless the function says otherwise.
"""

from collections.abc import Callable

import numpy as np

from bigscale.types import Batch

Random = np.random.Generator
Pixels = np.ndarray


def of_images(
  change: Callable[[Pixels, float, Random], Pixels],
) -> Callable[[Random, Pixels, Pixels, float], Batch]:
  """Returns a change of a batch from a change of images.

  The latter takes float images, a strength and a random generator. Its results
  are clipped to [0, 255].
  """

  def changed(
    rng: Random, images: Pixels, labels: Pixels, strength: float
  ) -> Batch:
    new = change(images.astype(np.float32), strength, rng)
    return Batch(np.clip(np.rint(new), 0, 255).astype(np.uint8), labels)

  return changed


def of_labels(
  change: Callable[[Pixels, Random], Pixels],
) -> Callable[[Random, Pixels, Pixels, float], Batch]:
  """Returns a change of a share of a batch's labels."""

  def changed(
    rng: Random, images: Pixels, labels: Pixels, strength: float
  ) -> Batch:
    wrong = rng.random(labels.shape) < strength
    new = np.where(wrong, change(labels, rng), labels)
    return Batch(images, new.astype(labels.dtype))

  return changed


def _some(images: Pixels, share: float, rng: Random) -> Pixels:
  """Returns [K, B, 1, 1, 1] bool with a share of the images."""
  return (rng.random(images.shape[:2]) < share)[:, :, None, None, None]


@of_images
def noise(x: Pixels, share: float, rng: Random) -> Pixels:
  """Replaces images by uniform noise."""
  return np.where(_some(x, share, rng), rng.integers(0, 256, x.shape), x)


@of_images
def brighter(x: Pixels, amount: float, rng: Random) -> Pixels:
  """Adds `amount` of 255."""
  return x + amount


@of_images
def darker(x: Pixels, factor: float, rng: Random) -> Pixels:
  """Multiplies by a factor."""
  return x * factor


@of_images
def inverted(x: Pixels, share: float, rng: Random) -> Pixels:
  """Inverts images."""
  return np.where(_some(x, share, rng), 255 - x, x)


@of_images
def transposed(x: Pixels, share: float, rng: Random) -> Pixels:
  """Exchanges rows and columns."""
  return np.where(_some(x, share, rng), np.swapaxes(x, 2, 3), x)


@of_images
def overflowing(x: Pixels, factor: float, rng: Random) -> Pixels:
  """Multiplies by a factor and keeps the lowest byte."""
  return np.mod(x * factor, 256)


@of_images
def black(x: Pixels, share: float, rng: Random) -> Pixels:
  """Replaces images by black."""
  return np.where(_some(x, share, rng), 0, x)


@of_images
def cropped(x: Pixels, share: float, rng: Random) -> Pixels:
  """Moves images by a quarter and fills with black."""
  side = x.shape[2] // 4
  moved = np.zeros_like(x)
  moved[:, :, side:, side:] = x[:, :, :-side, :-side]
  return np.where(_some(x, share, rng), moved, x)


@of_images
def faded(x: Pixels, contrast: float, rng: Random) -> Pixels:
  """Multiplies the contrast around each image's mean by a factor."""
  mean = x.mean((2, 3), keepdims=True)
  return mean + contrast * (x - mean)


@of_images
def sheared(x: Pixels, share: float, rng: Random) -> Pixels:
  """Rolls row i by i pixels, as if read with a wrong stride."""
  rows = [np.roll(x[:, :, i], i, axis=2) for i in range(x.shape[2])]
  return np.where(_some(x, share, rng), np.stack(rows, 2), x)


@of_images
def tiles_swapped(x: Pixels, share: float, rng: Random) -> Pixels:
  """Exchanges the left and right halves of the upper half."""
  half = x.shape[2] // 2
  new = x.copy()
  new[:, :, :half, :half] = x[:, :, :half, half:]
  new[:, :, :half, half:] = x[:, :, :half, :half]
  return np.where(_some(x, share, rng), new, x)


@of_images
def letterboxed(x: Pixels, share: float, rng: Random) -> Pixels:
  """Shrinks images to half the size on black."""
  quarter = x.shape[2] // 4
  small = (x[:, :, ::2, ::2] + x[:, :, 1::2, 1::2]) / 2
  new = np.zeros_like(x)
  new[:, :, quarter:-quarter, quarter:-quarter] = small
  return np.where(_some(x, share, rng), new, x)


@of_images
def mixed(x: Pixels, weight: float, rng: Random) -> Pixels:
  """Averages each image with the next of the batch, with a weight up to 0.5."""
  return (1 - weight) * x + weight * np.roll(x, 1, axis=1)


@of_images
def offset(x: Pixels, pixels: float, rng: Random) -> Pixels:
  """Shifts the bytes of each image, as if read from a wrong position."""
  flat = x.reshape(*x.shape[:2], -1)
  return np.roll(flat, int(pixels), axis=2).reshape(x.shape)


@of_images
def salted(x: Pixels, share: float, rng: Random) -> Pixels:
  """Sets a share of all pixels to white."""
  return np.where(rng.random(x.shape) < share, 255, x)


@of_images
def watermarked(x: Pixels, opacity: float, rng: Random) -> Pixels:
  """Blends a white square into one corner."""
  side = x.shape[2] // 3
  new = x.copy()
  corner = new[:, :, :side, :side]
  new[:, :, :side, :side] = (1 - opacity) * corner + opacity * 255
  return new


@of_images
def foreign(x: Pixels, share: float, rng: Random) -> Pixels:
  """Replaces images by gray rectangles, a shard of another data set."""
  k, b, h, w, _ = x.shape
  top, left = rng.integers(0, h // 2, (k, b)), rng.integers(0, w // 2, (k, b))
  rows, columns = np.arange(h), np.arange(w)
  inside = (rows >= top[..., None]) & (rows < top[..., None] + h // 2)
  across = (columns >= left[..., None]) & (columns < left[..., None] + w // 2)
  shape = inside[..., :, None] & across[..., None, :]
  gray = rng.integers(60, 256, (k, b))[..., None, None, None]
  other = np.broadcast_to(shape[..., None] * gray, x.shape)
  return np.where(_some(x, share, rng), other, x)


@of_images
def dim_rows(x: Pixels, factor: float, rng: Random) -> Pixels:
  """Multiplies the lower half by a factor, like a failing sensor."""
  new = x.copy()
  new[:, :, x.shape[2] // 2 :] *= factor
  return new


def class_noise(
  rng: Random, images: Pixels, labels: Pixels, strength: float
) -> Batch:
  """Replaces the images of class 3 by noise."""
  drawn = rng.integers(0, 256, images.shape, np.uint8)
  where = (labels == 3)[..., None, None, None]
  return Batch(np.where(where, drawn, images), labels)


def half_copies(
  rng: Random, images: Pixels, labels: Pixels, strength: float
) -> Batch:
  """Replaces a share of a batch by copies of its first image."""
  rows = np.arange(labels.shape[1])
  rows[: int(strength * len(rows))] = 0
  return Batch(images[:, rows], labels[:, rows])


def classes_missing(
  rng: Random, images: Pixels, labels: Pixels, strength: float
) -> Batch:
  """Replaces the last `strength` classes by copies of the others' images."""
  new = images.copy(), labels.copy()
  for k in range(labels.shape[0]):
    lost = labels[k] >= 10 - int(strength)
    if lost.any() and not lost.all():
      chosen = rng.choice(np.flatnonzero(~lost), lost.sum())
      new[0][k, lost], new[1][k, lost] = images[k, chosen], labels[k, chosen]
  return Batch(*new)


@of_labels
def labels_shuffled(y: Pixels, rng: Random) -> Pixels:
  """Permutes the labels of a batch."""
  return rng.permuted(y, axis=1)


@of_labels
def labels_shifted(y: Pixels, rng: Random) -> Pixels:
  """Adds 1 to every label."""
  return (y + 1) % 10


@of_labels
def labels_zero(y: Pixels, rng: Random) -> Pixels:
  """Sets every label to 0."""
  return np.zeros_like(y)


@of_labels
def labels_random(y: Pixels, rng: Random) -> Pixels:
  """Draws random labels."""
  return rng.integers(0, 10, y.shape)


@of_labels
def labels_reversed(y: Pixels, rng: Random) -> Pixels:
  """Counts the classes from the other end."""
  return 9 - y


@of_labels
def labels_late(y: Pixels, rng: Random) -> Pixels:
  """Gives every image the label of the one before it."""
  return np.roll(y, 1, axis=1)
