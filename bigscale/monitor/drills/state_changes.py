"""Faulty weights and optimizer states, as traceable functions of the state.

Every function takes the state, a random key and a strength.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bigscale.monitor.drills.disturbances import Change
from bigscale.monitor.drills.faulty_step import with_bits
from bigscale.train.state import GanState, Player
from bigscale.types import Array, PyTree

# `leaf(x, key, strength) -> x` of one array.
Leaf = Callable[[Array, Array, Array], Array]


def on_leaves(
  leaf: Leaf, player: str, select: Callable[[PyTree], str | None] | None = None
) -> Change:
  """Returns a change of the kernels of a player or of the average.

  Args:
    leaf: change of one array.
    player: `g`, `d` or `ema`.
    select: returns the path of the only array to change; None changes all
      arrays with two or more axes.
  """

  def change(state: GanState, key: Array, strength: Array) -> GanState:
    owner = getattr(state, player)
    only = select(owner.params) if select else None
    leaves, structure = jax.tree_util.tree_flatten_with_path(owner.params)
    new = []
    for i, (path, x) in enumerate(leaves):
      name = jax.tree_util.keystr(path)
      chosen = name == only if select else x.ndim >= 2
      draw = jax.random.fold_in(key, i)
      new.append(leaf(x, draw, strength).astype(x.dtype) if chosen else x)
    params = jax.tree.unflatten(structure, new)
    return state._replace(**{player: owner._replace(params=params)})

  return change


def both(leaf: Leaf) -> Change:
  """Returns a change of the kernels of both players."""
  of_g, of_d = on_leaves(leaf, "g"), on_leaves(leaf, "d")

  def change(state: GanState, key: Array, strength: Array) -> GanState:
    return of_d(of_g(state, key, strength), key, strength)

  return change


def _paths(params: PyTree) -> list[str]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return [jax.tree_util.keystr(path) for path, _ in leaves]


def first_kernel(params: PyTree) -> str:
  """Returns the path of the first kernel."""
  return next(path for path in _paths(params) if "kernel" in path)


def last_kernel(params: PyTree) -> str:
  """Returns the path of the last kernel."""
  return [path for path in _paths(params) if "kernel" in path][-1]


def embedding(params: PyTree) -> str:
  """Returns the path of the first class embedding, or of the first kernel."""
  found = [path for path in _paths(params) if "embedding" in path]
  return found[0] if found else first_kernel(params)


def scaled(x: Array, key: Array, factor: Array) -> Array:
  """Multiplies by a factor."""
  return x * factor


def noisy(x: Array, key: Array, size: Array) -> Array:
  """Adds noise relative to the array's standard deviation."""
  return x + size * jnp.std(x) * jax.random.normal(key, x.shape, x.dtype)


def pruned(x: Array, key: Array, share: Array) -> Array:
  """Sets a random share of the entries to zero."""
  return jnp.where(jax.random.uniform(key, x.shape) < share, 0, x)


def rounded(x: Array, key: Array, bits: Array) -> Array:
  """Rounds to a number of significant bits."""
  return with_bits(x, bits)


def fixed_point(x: Array, key: Array, levels: Array) -> Array:
  """Rounds to a number of levels between 0 and the largest magnitude."""
  unit = jnp.max(jnp.abs(x)) / levels
  return jnp.round(x / jnp.maximum(unit, 1e-12)) * unit


def flipped_bits(x: Array, key: Array, rate: Array) -> Array:
  """Multiplies a few random entries by -4, like a flipped exponent bit."""
  return jnp.where(jax.random.uniform(key, x.shape) < rate, -4 * x, x)


def permuted(x: Array, key: Array, strength: Array) -> Array:
  """Reorders the output channels, as in a wrong merge of checkpoints."""
  return jnp.flip(x, axis=-1)


def rank_one(x: Array, key: Array, share: Array) -> Array:
  """Moves a share towards the mean over the output channels."""
  return x + share * (jnp.mean(x, axis=-1, keepdims=True) - x)


def bfloat16(state: GanState, key: Array, strength: Array) -> GanState:
  """Rounds all weights to bfloat16."""

  def cast(tree: PyTree) -> PyTree:
    return jax.tree.map(
      lambda x: (
        x.astype(jnp.bfloat16).astype(x.dtype)
        if jnp.issubdtype(x.dtype, jnp.floating)
        else x
      ),
      tree,
    )

  return state._replace(g=cast(state.g), d=cast(state.d), ema=cast(state.ema))


def exploding_entry(state: GanState, key: Array, factor: Array) -> GanState:
  """Multiplies one entry of D's last kernel by a factor."""

  def one(x: Array, key: Array, factor: Array) -> Array:
    flat = x.reshape(-1)
    return flat.at[0].multiply(factor).reshape(x.shape)

  return on_leaves(one, "d", last_kernel)(state, key, factor)


def drifting_biases(state: GanState, key: Array, amount: Array) -> GanState:
  """Adds an amount to all of D's vectors, such as biases."""
  params = jax.tree.map(
    lambda x: x + amount if x.ndim == 1 else x, state.d.params
  )
  return state._replace(d=state.d._replace(params=params))


def reset_statistics(state: GanState, key: Array, strength: Array) -> GanState:
  """Resets the average's batch statistics to mean 0 and variance 1."""
  stats = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      jnp.ones_like(x)
      if "var" in jax.tree_util.keystr(path)
      else jnp.zeros_like(x)
    ),
    state.ema.batch_stats,
  )
  return state._replace(ema=state.ema._replace(batch_stats=stats))


def _adam(player: Player, **changes: Callable[[PyTree], PyTree]) -> Player:
  first, *rest = player.optimizer
  new = {name: of(getattr(first, name)) for name, of in changes.items()}
  return player._replace(optimizer=(first._replace(**new), *rest))


def _zeros(tree: PyTree) -> PyTree:
  return jax.tree.map(jnp.zeros_like, tree)


def second_moment_lost(
  state: GanState, key: Array, strength: Array
) -> GanState:
  """Resets Adam's second moments of both players, but not the count."""
  return state._replace(
    g=_adam(state.g, nu=_zeros), d=_adam(state.d, nu=_zeros)
  )


def momentum_noise(state: GanState, key: Array, size: Array) -> GanState:
  """Replaces G's first moments by noise of `size` root second moments."""
  first = state.g.optimizer[0]
  leaves, structure = jax.tree.flatten(first.nu)
  keys = jax.random.split(key, len(leaves))
  drawn = [
    size * jnp.sqrt(nu) * jax.random.normal(k, nu.shape, nu.dtype)
    for nu, k in zip(leaves, keys, strict=True)
  ]
  noise = jax.tree.unflatten(structure, drawn)
  return state._replace(g=_adam(state.g, mu=lambda _: noise))


def d_reset(state: GanState, key: Array, strength: Array) -> GanState:
  """Replaces D's kernels with noise of the same scale, like a new D."""

  def drawn(x: Array, key: Array, strength: Array) -> Array:
    return jnp.std(x) * jax.random.normal(key, x.shape, x.dtype)

  return on_leaves(drawn, "d")(state, key, strength)


def stale_d(state: GanState, old: GanState) -> GanState:
  """Restores an old D with its optimizer."""
  return state._replace(d=old.d)


def stale_g(state: GanState, old: GanState) -> GanState:
  """Restores an old G with its optimizer."""
  return state._replace(g=old.g)


def stale_average(state: GanState, old: GanState) -> GanState:
  """Restores an old average."""
  return state._replace(ema=old.ema)
