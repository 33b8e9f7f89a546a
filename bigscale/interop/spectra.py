"""Power iterations of other implementations, as ours would hold them.

Ours takes one step from the u it holds and divides by what that step finds, in
evaluation, too (`bigscale.ops.spectral`).
"""

import numpy as np

from bigscale.ops.spectral import Spectrum


def stepped(weight: np.ndarray, u_ko: np.ndarray, axis: int) -> Spectrum:
  """These vectors and the singular values that the next step finds.

  Args:
    weight: whose they are.
    u_ko: [k, O] unit vectors, O the length of the output axis.
    axis: the output axis of the weight.
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
  """[O] the unit vector whose next step gives this v.

  For files that hold the u and v of a step already taken, by which their code
  divides without another one: u = unit(W v) follows from v. Least squares;
  exact where v came from a step with this very weight.

  Args:
    w_oi: the weight as a matrix.
    v: [I] its right singular vector.
  """
  w_oi = w_oi.astype(np.float64)
  # By the smaller Gram matrix: the decomposition of the weight itself would
  # take minutes for a network.
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
