"""Converts power iterations of other implementations.

bigscale's spectral norm takes one step from the stored u and divides by the
singular value of that step, in evaluation too (`bigscale.ops.spectral`).
"""

import numpy as np

from bigscale.ops.spectral import Spectrum


def stepped(weight: np.ndarray, u_ko: np.ndarray, axis: int) -> Spectrum:
  """Returns the vectors with the singular values that the next step finds.

  Args:
    weight: weight that the vectors belong to.
    u_ko: [k, O] unit vectors; O is the length of the output axis.
    axis: output axis of the weight.
  """
  w_io = np.moveaxis(weight, axis, -1).astype(np.float64)
  w_io = w_io.reshape(-1, w_io.shape[-1])
  us: list[np.ndarray] = []
  vs: list[np.ndarray] = []
  sigmas = []
  for old in u_ko.astype(np.float64):
    vs.append(_unit(_orthogonal_to(w_io @ old, vs)))
    us.append(_unit(_orthogonal_to(vs[-1] @ w_io, us)))
    sigmas.append(vs[-1] @ w_io @ us[-1])
  return Spectrum(u_ko, np.array(sigmas, u_ko.dtype))


def before(w_oi: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Returns the unit vector [O] whose next power step gives `v`.

  Some files contain the u and v after a step, and their code divides by
  u^T W v without another step. There u = unit(W v) follows from v. The result
  is a least-squares solution, exact if v comes from a step with this weight.

  Args:
    w_oi: weight as a matrix.
    v: [I] right singular vector of the weight.
  """
  w_oi = w_oi.astype(np.float64)
  # Use the smaller Gram matrix: decomposing the weight itself would take
  # minutes for a whole network.
  if len(w_oi) <= w_oi.shape[1]:
    u = np.linalg.pinv(w_oi @ w_oi.T, hermitian=True) @ (w_oi @ v)
  else:
    u = w_oi @ (np.linalg.pinv(w_oi.T @ w_oi, hermitian=True) @ v)
  return _unit(u).astype(v.dtype)


def _orthogonal_to(x: np.ndarray, basis: list[np.ndarray]) -> np.ndarray:
  for e in basis:
    x = x - (x @ e) * e
  return x


def _unit(x: np.ndarray) -> np.ndarray:
  return x / max(np.linalg.norm(x), np.finfo(np.float64).tiny)
