"""Attention over the positions of a map, in formulations for each platform.

A query weighs all keys by the softmax of its products with them. The weights
[B, n, m] are much larger than their inputs: 134 MB in bfloat16 for 16 maps with
64 x 64 queries and 32 x 32 keys. All formulations have the same values and the
same gradients of all orders. Only speed and memory differ.

| formulation | where the weights are |
|-------------|-----------------------|
| `plain`     | stored from the forward pass to the backward pass |
| `remade`    | not stored: each product that uses them recomputes them |
| `library`   | as `jax.nn.dot_product_attention` compiles |

Estimated cycles of the TPU compiler for v5e at 1.5 GHz (`remade` with the
options of `parallel.compiler`), milliseconds of a whole layer in bfloat16 with
64 x 64 queries and 32 x 32 keys:

| layer                                       | `plain` | `remade` |
|---------------------------------------------|---------|----------|
| 96 channels, 16 images, forward + backward  | 5.67    | 1.88     |
| 192 channels, 8 images, forward + backward  | 3.22    | 1.38     |
| 192 channels, 16 images, forward            | 0.66    | 0.66     |

Without a gradient the compiler fuses all of `plain`, so `remade` computes
`plain` there. The forward pass of its own formulation would take 1.24.

CPU processor milliseconds, float32, forward + backward, best of 5 interleaved
runs on a busy machine (keys of 8 and 12 channels, values of 32 and 48):

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

# The TPU compiler fuses products of products if their width is a multiple of
# this.
_WIDTH = 16


def plain(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Computes attention and leaves the gradient to JAX.

  The division by the softmax's sum comes last, on v instead of m numbers per
  position. The sum is one more column of the product with the values. A TPU
  would otherwise read all n x m weights once more for each.
  """
  score_bnm = _scores(query_bnk, key_bmk)
  top_bn = lax.stop_gradient(jnp.max(score_bnm, axis=-1))
  out_bnv, _ = _weighed(score_bnm, top_bn, value_bmv)
  return out_bnv.astype(value_bmv.dtype)


def remade(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Computes attention and recomputes the weights for each product.

  FlashAttention does the same in a custom kernel (Dao et al. 2022, alg. 4).
  Here, the TPU compiler fuses the products, given the options that
  `parallel.compiler` sets. Optimization barriers prevent it from computing the
  weights once and storing them.
  """
  how = _How(precision.current(), query_bnk.shape[-1])
  return _remade(how, query_bnk, key_bmk, value_bmv)


def library(query_bnk: Array, key_bmk: Array, value_bmv: Array) -> Array:
  """Calls JAX's function, which needs keys and values of equal width."""
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
  """Returns the formulation for `cpu`, `gpu` or `tpu`, as measured (see above).

  No GPU was measured; it uses `plain`.
  """
  return "remade" if platform == "tpu" else "plain"


def _scores(q: Array, k: Array) -> Array:
  """Returns the products of queries and keys, [B, n, m], at least float32."""
  wide = jnp.promote_types(q.dtype, jnp.float32)
  return _product("bnk,bmk->bnm", q, k, wide)


def _product(subscripts: str, a: Array, b: Array, dtype: jnp.dtype) -> Array:
  """Returns an einsum of arrays of one dtype with a result of another dtype."""
  is_half = a.dtype == jnp.bfloat16
  einsum = precision.half(jnp.einsum) if is_half else jnp.einsum
  return einsum(subscripts, a, b, preferred_element_type=dtype)


def _weighed(
  score_bnm: Array, top_bn: Array, value_bmv: Array
) -> tuple[Array, Array]:
  """Returns the weighted means of the values and the sums of the weights.

  The means are [B, n, v] and the sums [B, n], both in the scores' dtype.
  `top_bn` is subtracted from the scores.
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
  """Settings for the backward pass of `remade`.

  Attributes:
    precision: precision of its products.
    width: width of queries and keys.
  """

  precision: Precision | None
  width: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _remade(how: _How, q: Array, k: Array, v: Array) -> Array:
  """Computes `plain`, which a TPU fuses if no gradient is needed."""
  del how
  return plain(q, k, v)


def _forward(
  how: _How, q: Array, k: Array, v: Array
) -> tuple[Array, tuple[Array, ...]]:
  missing = -how.width % _WIDTH
  if missing:
    # The padding is here because the gradients' products are not fused if the
    # caller pads. The barrier prevents the compiler from removing the zeros.
    padding = ((0, 0), (0, 0), (0, missing))
    q, k = lax.optimization_barrier((jnp.pad(q, padding), jnp.pad(k, padding)))
  # From separate scores: scores that are used twice would be stored.
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

  With weights P and their gradient D, the gradient of the scores is P (D -
  sum(P D)). The sum P D over m is the product of the output with its own
  gradient. P is the exponential E divided by its sum. The output's gradient is
  divided by that sum, on v instead of m numbers per position. Adding the
  logarithm of the sum to the maximum instead would lose it to rounding if the
  maximum is large.
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
