"""Interventions: changes that a rollback makes to the restored state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.spec import MonitorSpec
from bigscale.train.state import GanState


def make(
  state: GanState, spec: MonitorSpec, retry: int, older: GanState | None
) -> tuple[GanState, dict[str, Any]]:
  """Applies the interventions of the spec to a state.

  Args:
    state: restored state.
    spec: interventions and their factors.
    retry: number of rollbacks so far, from 1. Factors are raised to this power
      and replace those of earlier rollbacks.
    older: earlier state for `older_d`; None if there is none.

  Returns:
    The new state, and the new value of each changed setting as plain JSON.
  """
  dials, turned = state.dials, {}
  if "lower_lr" in spec.interventions:
    factor = turned["lr"] = spec.lr_factor**retry
    dials = dials._replace(
      g_lr=filled(dials.g_lr, factor), d_lr=filled(dials.d_lr, factor)
    )
  if "raise_gamma" in spec.interventions:
    factor = turned["gamma"] = spec.gamma_factor**retry
    dials = dials._replace(
      r1_gamma=filled(dials.r1_gamma, factor),
      r2_gamma=filled(dials.r2_gamma, factor),
    )
  if "clamp_sigma" in spec.interventions:
    turned["sigma_factor"] = spec.sigma_factor
    bounds = {
      path: filled(
        dials.g_sigma_bound[path],
        spec.sigma_factor * float(np.asarray(spectrum.sigma)[0]),
      )
      for path, spectrum in state.g.spectra.items()
    }
    dials = dials._replace(g_sigma_bound=bounds)
  if "ema_to_g" in spec.interventions:
    turned["g"] = "ema"
    # Copied, because leaves that share a buffer cannot both be donated.
    params, batch_stats, spectra = jax.tree.map(jnp.copy, tuple(state.ema))
    g = state.g._replace(
      params=params, batch_stats=batch_stats, spectra=spectra
    )
    state = state._replace(g=g)
  if older is not None:
    turned["d"] = int(np.asarray(older.step))
    state = state._replace(d=older.d)
  return state._replace(dials=dials), turned


def filled(
  like: jax.Array | jax.ShapeDtypeStruct, value: float | int
) -> jax.Array:
  """Returns a constant array with the shape, dtype and sharding of `like`."""
  whole = np.full(like.shape, value, like.dtype)
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: np.array(whole[index])
  )
