"""What the step asks of XLA's compiler."""

import jax
import jax.numpy as jnp
import pytest

from bigscale.ops.grouped_conv import conv
from bigscale.parallel import compiler

_YNN = "xla_cpu_experimental_ynn_fusion_type"


def _weight_gradient(options):
  x_bhwc = jax.ShapeDtypeStruct((2, 16, 16, 32), "float32")
  w_hwio = jax.ShapeDtypeStruct((3, 3, 32, 32), "float32")
  gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(conv(x, w))))
  return jax.jit(gradient).lower(w_hwio, x_bhwc).compile(options).as_text()


def test_convolutions_on_cpu_keep_clear_of_ynnpack():
  options = compiler.options("cpu")
  if not options:
    pytest.skip("this XLA does not know the option")
  assert "__ynn_fusion" in _weight_gradient(None)
  assert "__ynn_fusion" not in _weight_gradient(options)


def test_other_platforms_compile_as_they_are():
  assert compiler.options("tpu") == {}
  assert compiler.options("gpu") == {}


def test_the_users_flags_come_first(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", f"--{_YNN}=")
  assert compiler.options("cpu") == {}


def test_an_option_that_xla_forgot_is_left_out(monkeypatch):
  monkeypatch.setattr(compiler, "_CPU", {"xla_cpu_forgotten": "1"})
  assert compiler.options("cpu") == {}
