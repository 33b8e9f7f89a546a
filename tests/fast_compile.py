"""How tests compile what runs for a moment only: a third of the time.

Not for tests that train or draw much: programs made so run several times
slower.
"""

from bigscale.parallel import compiler

OPTIONS = compiler.options_to_run_once("cpu")
# The same for a process of its own, as XLA_FLAGS. XLA ends a process that gives
# it a flag that it does not know.
FLAGS = " ".join(
  f"--{name}={value}"
  for name, value in compiler._CPU_ONCE.items()
  if compiler._known(name, value)
)
