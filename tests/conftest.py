"""Eight virtual CPU devices for the whole suite, set before JAX starts."""

import os

from bigscale.parallel.environment import prepare_cpu

# Compiling takes far longer than running anything here.
os.environ.setdefault("XLA_FLAGS", "--xla_llvm_disable_expensive_passes=true")
prepare_cpu(virtual_devices=8)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
