"""Counts the FLOP of training from the products of its networks.

A floating-point operation is a multiplication or an addition. The cost of a run
is the cost of the convolutions and matrix products of its steps in their plain
form (`scaling/network_cost`). It measures the recipe and not a platform's
implementation: rematerialization, grouped convolutions made dense, sampling,
evaluation and the monitor's probes are excluded. Two costs are reported
separately: augmentation, whose products are specific to this library
(`ops/augment/warp`), and all operations that are not products.

The table gives how often a product p of one image's forward pass is computed:

| pass | layer | from data | between maps | fixed |
|---|---|---|---|---|
| forward | p | p | p | p |
| with gradients of the weights | 3 p | 2 p | 3 p | 2 p |
| with only the gradient of the input | 2 p | 2 p | 3 p | 2 p |
| with gradients of the weights and R1 or R2 | 6 p | 5 p | 9 p | 4 p |
| of the WGAN-GP penalty | 4 p | 4 p | 9 p | 3 p |

R1 takes the forward pass, the input gradient, and the backward pass through
both. The backward pass adds two products to each, one for its input and one for
the weights. "From data" is a layer with nothing learned before it, so its
input needs no gradient unless that gradient is penalized. "Between maps" is
attention, where both factors are differentiated. "Fixed" is a product with a
constant, such as a filter. WGAN-GP does not use the logits, and D is piecewise
linear except for attention, so only products up to the last attention take
6 p.

A D update takes the forward pass of G on a batch, and D with gradients of its
weights on that batch and on as many reals. A G update takes G with gradients,
D on its images with only the image gradient, and if the loss pairs images, the
forward pass of D on reals.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from bigscale.losses import r1_r2, wgan_gp
from bigscale.losses.terms import Products
from bigscale.scaling.jaxpr_flops import UnknownCostError
from bigscale.scaling.network_cost import Networks, Traced, networks
from bigscale.spec import ModelBase, RunSpec

# Operations per weight and update: Adam with its bias corrections, and the
# norms that the step logs.
_ADAM, _NORMS = 15, 8
# Operations per weight: the moving average, and its distance to the weights.
_AVERAGE = 8
# Pixels per side that the augmentation's warp adds to twice the image's side.
_WARP_MARGIN = 12


FORWARD = Products(1, 1, 1, 1, 1)
WEIGHTS = Products(3, 2, 3, 2, 2)
INPUT = Products(2, 2, 3, 2, 2)
PENALIZED = r1_r2.PENALIZED
MIXED = wgan_gp.TERM.cost


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingFlops:
  """FLOP of a step over all devices, averaged over steps that differ.

  Attributes:
    images: real images that D sees per step.
    g_forward: forward pass of G for one image.
    d_forward: forward pass of D for one image.
    d_step: all D updates without penalties, including the generation of fakes.
    penalties: R1, R2, WGAN-GP and other terms that declare a cost.
    g_step: the G update.
    spectral: power iterations, and the gradient through them.
    orthogonal: penalties on G's weights.
    augmentation: products of the augmentation.
    elementwise: other operations of the networks, approximately.
    optimizer: Adam and the moving average, approximately.
  """

  images: int
  g_forward: float
  d_forward: float
  d_step: float
  penalties: float
  g_step: float
  spectral: float
  orthogonal: float
  augmentation: float
  elementwise: float
  optimizer: float

  @property
  def per_step(self) -> float:
    """FLOP of convolutions and matrix products, which laws are fitted to."""
    return (
      self.d_step
      + self.penalties
      + self.g_step
      + self.spectral
      + self.orthogonal
    )

  @property
  def per_image(self) -> float:
    """`per_step` divided by the real images that D sees."""
    return self.per_step / self.images


def training_flops(spec: RunSpec) -> TrainingFlops:
  """Returns the cost of a step. Traces both networks once, on shapes.

  Raises:
    UnknownCostError: a network or a penalty cannot be counted.
  """
  traced = networks(spec.model)
  products = _samples(spec, traced, _products)
  g, d = traced.g.parameters, traced.d.parameters
  return TrainingFlops(
    images=spec.images_per_step,
    g_forward=2 * _products(traced.g, FORWARD),
    d_forward=2 * _products(traced.d, FORWARD),
    d_step=2 * products.d_step,
    penalties=2 * products.penalties,
    g_step=2 * products.g_step,
    spectral=_spectral(spec, traced),
    orthogonal=_weight_penalties(spec, traced.g),
    augmentation=_augmentation(spec),
    elementwise=sum(_samples(spec, traced, _pointwise)),
    optimizer=(_ADAM + _NORMS) * (g + spec.optim.d_steps * d) + _AVERAGE * g,
  )


def total_flops(spec: RunSpec) -> float:
  """Returns the FLOP of a whole run of the planned length."""
  return training_flops(spec).per_step * spec.total_steps


def sample_flops(model: ModelBase) -> float:
  """Returns the FLOP of sampling one image: convolutions and matrix products.

  Each batch takes one more power iteration if G uses spectral normalization.
  """
  return 2 * _products(networks(model).g, FORWARD)


def _products(network: Traced, kind: Products) -> float:
  """Returns the multiplications of one image's pass; each is two FLOP."""
  between = (i for i, x in enumerate(network.products) if x.between)
  last = max(between, default=-1)
  total = 0.0
  for i, product in enumerate(network.products):
    times = PENALIZED if kind is MIXED and i <= last else kind
    if product.between:
      often = times.between
    elif product.fixed:
      often = times.fixed
    else:
      often = times.first if product.first else times.linear
    total += often * product.count
  return total


def _pointwise(network: Traced, kind: Products) -> float:
  """Returns the operations of one image's pass that are not products."""
  return kind.pointwise * network.elementwise


class _Samples(NamedTuple):
  """Costs of a step that grow with the batch."""

  d_step: float
  penalties: float
  g_step: float


def _samples(
  spec: RunSpec,
  networks: Networks,
  count: Callable[[Traced, Products], float],
) -> _Samples:
  """Returns the costs of a mean step; `count` returns one image's cost."""
  g, d = networks
  loss, batch = spec.loss, spec.global_batch_size
  penalties = _penalized_sides(spec) * (count(d, PENALIZED) - count(d, WEIGHTS))
  for term in loss.d_terms:
    if not term.weight.ever_positive:
      continue
    if term.row.cost is None:
      raise UnknownCostError(
        f"the penalty {term.name!r} does not declare its cost; pass "
        "cost=Products(...) to its DTerm"
      )
    penalties += count(d, term.row.cost) / term.interval
  g_step = count(g, WEIGHTS) + count(d, INPUT) + loss.paired * count(d, FORWARD)
  d_batches = spec.optim.d_steps * batch
  return _Samples(
    d_step=d_batches * (count(g, FORWARD) + 2 * count(d, WEIGHTS)),
    penalties=d_batches * penalties,
    g_step=batch * g_step,
  )


def _penalized_sides(spec: RunSpec) -> float:
  """Returns how many of reals and fakes R1 and R2 penalize per mean step."""
  gammas = (spec.loss.r1_gamma, spec.loss.r2_gamma)
  return sum(g.ever_positive for g in gammas) / spec.loss.penalty_interval


def _spectral(spec: RunSpec, networks: Networks) -> float:
  """Returns the FLOP of power iterations in a mean step.

  A power iteration takes two passes over a weight per tracked singular value.
  The gradient takes one more pass if the weight is normalized.
  """
  model, updates = spec.model, spec.optim.d_steps
  passes = spec.optim.microbatches
  total = 0.0
  for player, traced in (("g", networks.g), ("d", networks.d)):
    for matrix in traced.matrices:
      tracked = min(model.num_singular_values, matrix.rows, matrix.out)
      step, back = 4 * tracked * matrix.size, 2 * matrix.size
      if not traced.network.spectral(matrix.path):
        if model.spectra_interval and traced.network.tracked(matrix.path):
          total += step / model.spectra_interval
      elif model.spectral_update == "step":
        # Each update normalizes its own player once. The G update also
        # differentiates through D's normalization.
        own_updates = 1 if player == "g" else updates
        total += own_updates * (step + back) + (back if player == "d" else 0)
      else:
        own_updates = 1 if player == "g" else updates
        total += passes * ((updates + 1) * step + own_updates * back)
  return total


def _weight_penalties(spec: RunSpec, g: Traced) -> float:
  """Returns the FLOP of orthogonal and spectral penalties on G's weights."""
  loss, total = spec.loss, 0.0
  for matrix in g.matrices:
    rows, out = matrix.rows, matrix.out
    if loss.orthogonal and g.network.orthogonal(matrix.path):
      # The smaller Gram matrix takes one product, its gradient one or two.
      total += 2 * (2 * rows * out**2 if out <= rows else 3 * out * rows**2)
    if not g.network.tracked(matrix.path):
      continue
    if loss.g_sigma.strength:
      total += 4 * matrix.size
    if loss.g_sigma.clamp or spec.clamps_sigma:
      total += 2 * matrix.size
  return total


def _augmentation(spec: RunSpec) -> float:
  """Returns the FLOP of the augmentation, which is linear in the images."""
  side, channels = spec.model.resolution, spec.model.image_channels
  transforms = spec.augment.chosen
  products = 0
  if "blit" in transforms or "translation" in transforms:
    products += 2 * side**3 * channels
  if "geometric" in transforms:
    fine = 2 * side + _WARP_MARGIN
    sampled = fine**2 * side * (side + 1)
    products += channels * (sampled + side * fine * (fine + side))
  if spec.augment.pipe == "ada" and "color" in transforms and channels == 3:
    products += channels**2 * side**2
  # Forward on reals and fakes; penalties add the gradient and its gradient.
  in_d = 2 + 2 * _penalized_sides(spec) + 3 * bool(spec.loss.gradient_penalty)
  in_g = 2 + spec.loss.paired
  batches = spec.optim.d_steps * in_d + in_g
  return 2.0 * spec.global_batch_size * batches * products
