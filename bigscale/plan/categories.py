"""Classifies instructions by kind of work and by phase of the step.

The step's `jax.named_scope`s take precedence, because they state the intent. An
instruction without such a scope is classified by its opcode and the opcodes
fused into it. A fusion has one category, because the compiler estimates it as a
whole.
"""

import re

from bigscale.plan.hlo import Instruction, Module

CONVOLUTION = "convolution"
SPECTRAL = "spectral_norm"
OPTIMIZER = "optimizer"
ORTHOGONAL = "orthogonal"
AUGMENT = "augmentation"
ELEMENTWISE = "elementwise"
RELAYOUT = "relayout"
OTHER = "other"
CATEGORIES = (
  CONVOLUTION,
  SPECTRAL,
  OPTIMIZER,
  ORTHOGONAL,
  AUGMENT,
  ELEMENTWISE,
  RELAYOUT,
  OTHER,
)

# Category by scope. The innermost of these scopes decides.
SCOPES = {
  "spectral_norm": SPECTRAL,
  "adam": OPTIMIZER,
  "ema": OPTIMIZER,
  "orthogonal": ORTHOGONAL,
  "augment": AUGMENT,
}
# Scopes that are phases of the step. The outermost decides.
PHASES = ("d_update", "g_update", "ema")
NO_PHASE = "elsewhere"

MXU = frozenset(("convolution", "dot"))
_MOVES = frozenset(
  (
    "bitcast",
    "bitcast-convert",
    "broadcast",
    "concatenate",
    "convert",
    "copy",
    "dynamic-slice",
    "dynamic-update-slice",
    "gather",
    "iota",
    "pad",
    "reduce-window",
    "reshape",
    "reverse",
    "scatter",
    "select-and-scatter",
    "slice",
    "transpose",
  )
)
_WITHOUT_WORK = frozenset(
  ("parameter", "constant", "tuple", "get-tuple-element", "fusion")
)
_NOT_ELEMENTWISE = frozenset(
  ("custom-call", "fft", "rng-bit-generator", "sort", "triangular-solve")
)


def category(module: Module, instruction: Instruction) -> str:
  """Returns an instruction's category, one of `CATEGORIES`."""
  scope = _last_scope(instruction.op_name)
  inner = (instruction,)
  if instruction.opcode == "fusion":
    inner = tuple(module.inside(module.called(instruction)))
    # A fusion made by the compiler has no name, but its instructions may.
    scope = scope or _most_frequent(inner)
  if scope:
    return SCOPES[scope]
  opcodes = {part.opcode for part in inner} - _WITHOUT_WORK
  if opcodes & MXU:
    return CONVOLUTION
  if opcodes and opcodes <= _MOVES:
    return RELAYOUT
  if not opcodes or opcodes & _NOT_ELEMENTWISE:
    return OTHER
  return ELEMENTWISE


def phase(instruction: Instruction) -> str:
  """Returns an instruction's phase, one of `PHASES` or `NO_PHASE`."""
  for scope in _scopes(instruction.op_name):
    if scope in PHASES:
      return scope
  return NO_PHASE


def _scopes(op_name: str) -> list[str]:
  # Differentiation wraps a scope: "d_update/transpose(jvp(adam))/mul".
  return re.findall(r"\w+", op_name)


def _last_scope(op_name: str) -> str | None:
  found = [scope for scope in _scopes(op_name) if scope in SCOPES]
  return found[-1] if found else None


def _most_frequent(instructions: tuple[Instruction, ...]) -> str | None:
  """Returns the scope that at least half of the named instructions share."""
  named = [
    _last_scope(instruction.op_name)
    for instruction in instructions
    if instruction.op_name
  ]
  scopes = [scope for scope in named if scope]
  if not scopes:
    return None
  best = max(sorted(set(scopes)), key=scopes.count)
  return best if 2 * scopes.count(best) >= len(named) else None
