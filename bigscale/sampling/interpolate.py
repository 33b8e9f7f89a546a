"""Interpolates between latents and between classes, with NumPy on the host."""

from collections.abc import Callable, Sequence

import numpy as np

Path = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def linear(start_bd: np.ndarray, end_bd: np.ndarray, steps: int) -> np.ndarray:
  """Returns straight lines [B, steps, D], including both ends.

  The midpoint of two normal latents of many dimensions has only about 0.7 of
  the length that G was trained on; see `spherical`.
  """
  share_s1 = np.linspace(0, 1, steps)[:, None]
  path_bsd = (1 - share_s1) * start_bd[:, None] + share_s1 * end_bd[:, None]
  return path_bsd.astype(start_bd.dtype)


def spherical(
  start_bd: np.ndarray, end_bd: np.ndarray, steps: int
) -> np.ndarray:
  """Returns arcs at constant angular speed [B, steps, D], including both ends.

  See Shoemake 1985, and White 2016, sec. 2.1, for latents: points on the path
  keep the length of normal latents. If the ends point in the same or opposite
  directions, the arc is not unique and the path is straight.
  """
  start, end = (x.astype(np.float64) for x in (start_bd, end_bd))
  lengths_b = np.linalg.norm(start, axis=1) * np.linalg.norm(end, axis=1)
  cosine_b = np.sum(start * end, axis=1) / np.maximum(lengths_b, 1e-300)
  angle_b11 = np.arccos(np.clip(cosine_b, -1, 1))[:, None, None]
  share_s1 = np.linspace(0, 1, steps)[:, None]
  sine_b11 = np.sin(angle_b11)
  no_arc_b11 = np.abs(sine_b11) < 1e-6
  safe_b11 = np.where(no_arc_b11, 1, sine_b11)
  arc_bsd = (
    np.sin((1 - share_s1) * angle_b11) / safe_b11 * start[:, None]
    + np.sin(share_s1 * angle_b11) / safe_b11 * end[:, None]
  )
  path_bsd = np.where(no_arc_b11, linear(start, end, steps), arc_bsd)
  return path_bsd.astype(start_bd.dtype)


PATHS: dict[str, Path] = {"spherical": spherical, "linear": linear}


def class_shares(
  pair: Sequence[int], num_classes: int, steps: int
) -> np.ndarray:
  """Returns class weights [steps, num_classes] float32 between two classes.

  G mixes its class embeddings with these weights, as the authors' PyTorch code
  does with `G.shared(y)`. Each row sums to 1. The first and last rows are
  one-hot.
  """
  one_hot = np.eye(num_classes)
  start, end = one_hot[[pair[0]]], one_hot[[pair[1]]]
  return linear(start, end, steps)[0].astype(np.float32)
