"""Attention over the places of a map, written as each platform likes it.

A query weighs all keys by the softmax of its products with them. The weights
[B, n, m] are far larger than what they are made of: 134 MB for 16 maps of
64 x 64 places with keys of 32 x 32, in bfloat16. Values and gradients of all
orders agree between formulations; only speed and memory differ.

| formulation | where the weights are |
|-------------|-----------------------|
| `plain`     | in memory, from the forward pass to the backward pass |
| `remade`    | nowhere: each product that takes them makes them again |
| `library`   | as XLA makes of `jax.nn.dot_product_attention` |

Estimated cycles of the TPU's compiler for v5e at 1.5 GHz, `remade` with the
options of `parallel.compiler`, milliseconds of a whole layer in bfloat16, whose
weights 64 x 64 queries and 32 x 32 keys make:

| layer                                       | `plain` | `remade` |
|---------------------------------------------|---------|----------|
| 96 channels, 16 images, forward + backward  | 5.67    | 1.88     |
| 192 channels, 8 images, forward + backward  | 3.22    | 1.38     |
| 192 channels, 16 images, forward            | 0.66    | 0.66     |

Without a gradient the compiler fuses all of `plain`, so `remade` is the same
there. In its own form it would take 1.24.

CPU: processor milliseconds, float32, forward + backward, the best of 5 in
turns on a busy machine (keys of 8 and 12, values of 32 and 48):

| images, queries, keys | `plain` | `remade` | `library` |
|-----------------------|---------|----------|-----------|
| 32, 1,024, 256        | 181     | 211      | 376       |
| 16, 4,096, 1,024      | 2,115   | 2,028    | 4,774     |
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from bigscale.ops import precision
from bigscale.spec import Precision
from bigscale.types import Array

# (queries [B, n, k], keys [B, m, k], values [B, m, v]) -> [B, n, v].
Formulation = Callable[[Array, Array, Array], Array]

# A TPU's compiler fuses products of products whose width is a multiple of it.
_WIDTH = 16


def plain(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Leaves the gradient to JAX.

  The softmax divides last, where there are v and not m numbers a place, and
  its sum is one more column of the product with the values: a TPU would pass
  over all n x m weights once more for either.
  """
  score_bnm = _scores(query_bnk, key_bmk)
  top_bn = lax.stop_gradient(jnp.max(score_bnm, axis=-1))
  out_bnv, _ = _weighed(score_bnm, top_bn, value_bmv)
  return out_bnv.astype(value_bmv.dtype)


def remade(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Makes the weights again wherever a product takes them.

  So does Dao et al. 2022 (FlashAttention, alg. 4), in a kernel of its own. Here
  the TPU's compiler fuses the products, given the options that
  `parallel.compiler` sets. Barriers keep it from making the weights once and
  storing them.
  """
  how = _How(precision.current(), query_bnk.shape[-1])
  return _remade(how, query_bnk, key_bmk, value_bmv)


def library(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Calls JAX's own, whose heads of keys and values must be equally wide."""
  width = max(query_bnk.shape[-1], value_bmv.shape[-1])

  def one_head(x: Array) -> Array:
    missing = width - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, missing)))[:, :, None]

  out_bn1v = jax.nn.dot_product_attention(
    one_head(query_bnk), one_head(key_bmk), one_head(value_bmv), scale=1.0
  )
  return out_bn1v[:, :, 0, : value_bmv.shape[-1]]


FORMULATIONS: dict[str, Formulation] = {
  "plain": plain,
  "remade": remade,
  "library": library,
}


def choose(platform: str) -> str:
  """Names the formulation for `cpu`, `gpu` or `tpu`, as measured (see above).

  No GPU was measured; it gets `plain`.
  """
  return "remade" if platform == "tpu" else "plain"


def _scores(q: Array, k: Array) -> Array:
  """[B, n, m], in float32 or wider."""
  wide = jnp.promote_types(q.dtype, jnp.float32)
  return _product("bnk,bmk->bnm", q, k, wide)


def _product(subscripts: str, a: Array, b: Array, dtype: jnp.dtype) -> Array:
  """An einsum of arrays of one dtype, with a result of another."""
  is_half = a.dtype == jnp.bfloat16
  einsum = precision.half(jnp.einsum) if is_half else jnp.einsum
  return einsum(subscripts, a, b, preferred_element_type=dtype)


def _weighed(
  score_bnm: Array, top_bn: Array, value_bmv: Array
) -> tuple[Array, Array]:
  """Returns means of the values, [B, n, v], and sums of the weights, [B, n].

  Both have the scores' dtype. `top_bn` is what is taken off the scores.
  """
  dtype, wide = value_bmv.dtype, score_bnm.dtype
  weight_bnm = jnp.exp(score_bnm - top_bn[..., None]).astype(dtype)
  ones_bm1 = jnp.ones_like(value_bmv[..., :1])
  sums_bnv = _product(
    "bnm,bmv->bnv",
    weight_bnm,
    jnp.concatenate([value_bmv, ones_bm1], axis=-1),
    wide,
  )
  out_bnv = sums_bnv[..., :-1] / sums_bnv[..., -1:]
  return out_bnv, sums_bnv[..., -1]


class _How(NamedTuple):
  """What the backward pass of `remade` has to know.

  Attributes:
    precision: of its products.
    width: of queries and keys.
  """

  precision: Precision | None
  width: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _remade(how: _How, q: Array, k: Array, v: Array) -> Array:
  """Computes the plain form, which a TPU fuses where no gradient is taken."""
  del how
  return plain(q, k, v)


def _forward(
  how: _How, q: Array, k: Array, v: Array
) -> tuple[Array, tuple[Array, ...]]:
  missing = -how.width % _WIDTH
  if missing:
    # Here, and not by the caller, or the gradients' products are not fused. The
    # barrier keeps the compiler from taking the zeros away again.
    padding = ((0, 0), (0, 0), (0, missing))
    q, k = lax.optimization_barrier((jnp.pad(q, padding), jnp.pad(k, padding)))
  # From scores of its own: from the same they would be stored.
  top_bn = jnp.max(_scores(*lax.optimization_barrier((q, k))), axis=-1)
  top_bn = lax.stop_gradient(top_bn)
  out_bnv, sum_bn = _weighed(_scores(q, k), top_bn, v)
  return out_bnv.astype(v.dtype), (q, k, v, out_bnv, top_bn, sum_bn)


def _backward(
  how: _How, saved: tuple[Array, ...], cotangent_bnv: Array
) -> tuple[Array, Array, Array]:
  by_q, by_k, by_v = precision.at(how.precision)(_gradients)(
    *saved, cotangent_bnv
  )
  return by_q[..., : how.width], by_k[..., : how.width], by_v


def _gradients(
  q: Array,
  k: Array,
  v: Array,
  out_bnv: Array,
  top_bn: Array,
  sum_bn: Array,
  by_out_bnv: Array,
) -> tuple[Array, Array, Array]:
  """Returns the gradients of queries, keys and values.

  With weights P and their gradient D, that of the scores is P (D - sum(P D)),
  and sum(P D) over m is the product of the result with its own gradient. P is
  the exponential E over its sum. The gradient of the result is divided by that
  sum, where there are v and not m numbers a place. A logarithm of the sum that
  was added to the maximum would be rounded away beside a large one.
  """
  wide = sum_bn.dtype
  by_out_bnv = (by_out_bnv / sum_bn[..., None]).astype(by_out_bnv.dtype)
  mean_bn = jnp.sum(out_bnv * by_out_bnv.astype(wide), axis=-1)

  def exponentials(q: Array, k: Array, top_bn: Array) -> Array:
    return jnp.exp(_scores(q, k) - top_bn[..., None])

  def by_scores(
    q: Array, k: Array, top_bn: Array, v: Array, by_out: Array, mean_bn: Array
  ) -> Array:
    by_weights_bnm = _product("bnv,bmv->bnm", by_out, v, wide)
    by_scores_bnm = exponentials(q, k, top_bn) * (
      by_weights_bnm - mean_bn[..., None]
    )
    return by_scores_bnm.astype(q.dtype)

  *own, own_by_out = lax.optimization_barrier((q, k, top_bn, by_out_bnv))
  by_v = _product(
    "bnm,bnv->bmv", exponentials(*own).astype(v.dtype), own_by_out, v.dtype
  )
  all_of_it = (q, k, top_bn, v, by_out_bnv, mean_bn)
  own = lax.optimization_barrier(all_of_it)
  by_q = _product("bnm,bmk->bnk", by_scores(*own), own[1], q.dtype)
  *own, by_q = lax.optimization_barrier((*all_of_it, by_q))
  by_k = _product("bnm,bnk->bmk", by_scores(*own), own[0], k.dtype)
  return by_q, by_k, by_v


_remade.defvjp(_forward, _backward)
