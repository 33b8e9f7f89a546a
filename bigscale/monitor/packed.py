"""Arrays as plain JSON, bit for bit."""

import base64
from typing import Any

import numpy as np


def pack(x: np.ndarray) -> dict[str, Any]:
  """Returns an array as plain JSON."""
  x = np.asarray(x)
  data = base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()
  return {"shape": list(x.shape), "dtype": x.dtype.str, "data": data}


def unpack(packed: dict[str, Any]) -> np.ndarray:
  """Returns the array that `pack` packed."""
  data = base64.b64decode(packed["data"])
  flat = np.frombuffer(data, np.dtype(packed["dtype"]))
  return flat.reshape(packed["shape"]).copy()
