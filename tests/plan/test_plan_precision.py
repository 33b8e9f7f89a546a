"""Tests of the precision of float32 products in a plan.

NETWORK and ELSEWHERE in the excerpt are placeholders for two precisions.
"""

import pytest

from bigscale.plan import hlo, measure, precision, report
from bigscale.spec import SpecError
from tests.plan import excerpts
from tests.plan.test_plan_report import plan  # noqa: F401


def _products(network, elsewhere="highest"):
  text = excerpts.FLOAT32_PRODUCTS
  for name, stated in (("NETWORK", network), ("ELSEWHERE", elsewhere)):
    # The compiler omits the default precision.
    words = f"operand_precision={{{stated},{stated}}}"
    text = text.replace(f" {name},", f" {words}," if stated else "")
  return measure.measure(hlo.parse(text), 1).float32


def test_only_float32_products_are_found():
  of_network, elsewhere = sorted(
    _products("high"), key=lambda one: one.place != "network"
  )
  assert of_network.precision == "high"
  assert of_network.flops == 2 * 2048 * 64 * 32
  assert of_network.cycles == 1500
  assert (elsewhere.precision, elsewhere.cycles) == ("highest", 300)


@pytest.mark.parametrize("stated", ["highest", "high", "default"])
def test_a_program_with_the_stated_precision_passes(stated):
  precision.check(_products("" if stated == "default" else stated), stated)


@pytest.mark.parametrize(
  ("network", "elsewhere", "stated", "named"),
  [
    ("", "highest", "highest", "Discriminator/conv1/dot_general: default"),
    ("high", "highest", "highest", "Discriminator/conv1/dot_general: high"),
    ("highest", "highest", "default", "Discriminator/conv1/.*: highest"),
    ("", "", "default", "spectral_norm/dot_general: default"),
    ("highest", "high", "highest", "spectral_norm/dot_general: high"),
  ],
)
def test_another_precision_raises_and_names_the_operation(
  network, elsewhere, stated, named
):
  with pytest.raises(SpecError, match=named) as refusal:
    precision.check(_products(network, elsewhere), stated)
  assert f"model.precision='{stated}'" in str(refusal.value)


def test_the_lower_precision_of_two_operands_counts():
  text = excerpts.FLOAT32_PRODUCTS.replace(
    " NETWORK,", " operand_precision={highest,default},"
  )
  (product, _) = sorted(
    measure.measure(hlo.parse(text), 1).float32, key=lambda one: -one.flops
  )
  assert product.precision == "default"


def test_report_shows_alternative_precisions(plan):  # noqa: F811
  plan |= {
    "precision": "highest",
    "float32_products": precision.summary(_products("highest"), 1.5e6),
  }
  shown = report.text(plan)
  assert "1 products of the networks at highest (six" in shown
  assert "1.00 ms of cycles" in shown
  assert "0.50 at high, 0.20 at default" in shown
