"""What a rollback changes in the state it goes back to, besides its noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.spec import MonitorSpec
from bigscale.train.state import GanState


def make(
  state: GanState, spec: MonitorSpec, retry: int, older: GanState | None
) -> tuple[GanState, dict[str, Any]]:
  """Makes the interventions that the spec names.

  Args:
    state: gone back to.
    spec: which, and how strong.
    retry: 1 at the first rollback. Factors apply once for each, and replace
      those of earlier ones.
    older: an earlier state, for `older_d`; None where there is none.

  Returns:
    The state, and what was turned to what, as plain JSON.
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
    # Copies: leaves that share a buffer cannot both be donated.
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
  """An array of this shape, dtype and sharding, full of one value."""
  whole = np.full(like.shape, value, like.dtype)
  return jax.make_array_from_callback(
    like.shape, like.sharding, lambda index: np.array(whole[index])
  )
