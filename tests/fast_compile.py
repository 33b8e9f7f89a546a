"""How tests compile what runs for a moment only: a third of the time.

Not for tests that train or draw much: programs made so run several times
slower.
"""

OPTIONS = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
  "xla_cpu_use_fusion_emitters": False,
}
# The same for a process of its own, as XLA_FLAGS.
FLAGS = " ".join(
  f"--{name}={str(value).lower()}" for name, value in OPTIONS.items()
)
