"""Compiler options of the step."""

import jax
import jax.numpy as jnp
import pytest

from bigscale.ops.grouped_conv import conv
from bigscale.parallel import compiler
from bigscale.spec import OperationsSpec, SpecError

KNOWN = {"xla_cpu_enable_fast_math": False}
_YNN = "xla_cpu_experimental_ynn_fusion_type"


def _weight_gradient(options):
  x_bhwc = jax.ShapeDtypeStruct((2, 16, 16, 32), "float32")
  w_hwio = jax.ShapeDtypeStruct((3, 3, 32, 32), "float32")
  gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(conv(x, w))))
  return jax.jit(gradient).lower(w_hwio, x_bhwc).compile(options).as_text()


def cpu():
  return jax.local_devices(backend="cpu")[0]


def test_convolutions_on_cpu_do_not_use_ynnpack():
  options = compiler.options(cpu())
  if not options:
    pytest.skip("this XLA does not know the option")
  assert "__ynn_fusion" in _weight_gradient(None)
  assert "__ynn_fusion" not in _weight_gradient(options)


@pytest.mark.parametrize("variable", compiler.ENVIRONMENT)
@pytest.mark.parametrize("flag", [f"--{_YNN}=", f"--xla_other=1 --{_YNN}"])
def test_the_users_flags_come_first(monkeypatch, variable, flag):
  monkeypatch.setenv(variable, flag)
  assert compiler.options(cpu()) == {}


def test_other_flags_are_ignored(monkeypatch):
  before = compiler.options(cpu())
  monkeypatch.setenv("XLA_FLAGS", f"--{_YNN}_of_another=1")
  assert compiler.options(cpu()) == before


def test_an_option_unknown_to_xla_is_omitted(monkeypatch):
  ours = {"xla_cpu_forgotten": "1", **KNOWN}
  monkeypatch.setattr(compiler, "TRAINING", {"cpu": ours})
  assert compiler.options(cpu()) == KNOWN


def test_a_value_that_xla_rejects_raises(monkeypatch):
  """If it were omitted, nobody would notice that it has no effect."""
  monkeypatch.setattr(
    compiler, "TRAINING", {"cpu": dict.fromkeys(KNOWN, "false")}
  )
  with pytest.raises(ValueError, match="not a valid bool"):
    compiler.options(cpu())


def test_fast_compile_options_are_accepted(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  found = compiler.options_to_run_once("cpu")
  assert found["xla_backend_optimization_level"] == 0
  assert found["xla_llvm_disable_expensive_passes"]
  assert compiler.options_to_run_once("tpu") == {}


def test_the_runs_own_options_come_first(monkeypatch):
  (name, value), *_ = KNOWN.items()
  monkeypatch.setattr(compiler, "TRAINING", {"cpu": KNOWN})
  assert compiler.options(cpu(), [f"{name}="]) == {}
  assert compiler.options(cpu(), [f"{name}=true"]) == {name: True}
  monkeypatch.setenv("XLA_FLAGS", f"--{name}={value}")
  assert compiler.options(cpu(), [f"{name}=true"]) == {name: True}


@pytest.mark.parametrize(
  "option", ["xla_cpu_forgotten=1", "xla_backend_optimization_level=high"]
)
def test_a_rejected_option_of_the_run_is_named(option):
  with pytest.raises(SpecError, match=f"(?s){option}.*correct or remove it"):
    compiler.options(cpu(), [option])


@pytest.mark.parametrize("option", ["--xla_a=1", "xla_a", "=1", "fast"])
def test_invalid_options_are_rejected(option):
  with pytest.raises(SpecError, match="xla_NAME=VALUE"):
    OperationsSpec(compiler_options=(option,))


def test_the_recorded_environment_is_complete(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
  monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
  assert compiler.environment(KNOWN) == {
    "compiler_options": KNOWN,
    "XLA_FLAGS": "--xla_a=1",
    "LIBTPU_INIT_ARGS": "",
  }
