"""Writes scalars and images to Weights & Biases."""

import os
import tempfile
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigscale.place import Place, is_remote

_PROJECT = "bigscale"
_ID = "wandb/bigscale_id"


class WeightsAndBiases:
  """A run at Weights & Biases that continues when the training resumes.

  Its own environment variables choose the rest: WANDB_PROJECT, WANDB_ENTITY,
  and WANDB_MODE=offline, which writes to the run's folder for a later
  `wandb sync`. W&B's own files of a run on a bucket are in a temporary folder
  (or WANDB_DIR).
  """

  def __init__(self, place: Place, settings: Mapping[str, Any]) -> None:
    """Starts or resumes the run.

    Args:
      place: folder of the training run, whose name becomes that of the run.
      settings: spec of the run, as JSON values.
    """
    import wandb

    self._wandb = wandb
    local = place.url
    if is_remote(local):
      local = os.environ.get("WANDB_DIR") or tempfile.mkdtemp(prefix="wandb-")
    self._run = wandb.init(
      project=wandb.Settings().project or _PROJECT,
      name=os.path.basename(os.path.abspath(place.url)),
      id=_id(place),
      resume="allow",
      dir=local,
      config=dict(settings),
    )
    # W&B ignores rows whose own step decreases, as after a rollback.
    self._run.define_metric("*", step_metric="step")

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Logs one value for each name."""
    self._run.log({**values, "step": step})

  def image(self, step: int, name: str, image: np.ndarray) -> None:
    """Logs one image, [H, W, C] uint8."""
    self._run.log({name: self._wandb.Image(image), "step": step})

  def flush(self) -> None:
    """Does nothing: W&B's own process writes continuously."""

  def close(self) -> None:
    """Waits for W&B to upload all rows."""
    self._run.finish()


def _id(place: Place) -> str:
  """Returns the id of the run, which is kept in its folder."""
  place.create(_ID, uuid.uuid4().hex[:12].encode())
  return place.read(_ID).decode().strip()
