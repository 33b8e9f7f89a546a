"""Tests of parsing HLO text: instructions, groups, loops and sums."""

import pytest

from bigscale.plan import categories, hlo
from bigscale.plan.groups import replica_groups
from bigscale.plan.loops import Frame, trip_count
from bigscale.plan.measure import measure
from tests.plan import excerpts


def test_instruction_fields_are_parsed():
  module = hlo.parse(excerpts.NESTED_SCANS)
  assert module.entry.name == "main.10_spmd"
  loop = module.computations["body.outer"].by_name["while.27"]
  assert loop.opcode == "while"
  assert loop.operands == ("tuple.52",)
  assert loop.attribute("body") == "body.inner"
  assert len(hlo.arrays(loop.shape)) == 4
  fusion = module.computations["body.inner"].by_name["select_add_fusion.2"]
  assert fusion.cycles == 1560
  assert fusion.shape == "f32[512,512]{1,0:T(8,128)S(1)}"
  assert module.called(fusion).name == "fused_computation.1"
  assert module.called(fusion).root.opcode == "add"


def test_text_without_a_program_is_refused():
  with pytest.raises(hlo.HloError, match="no ENTRY computation"):
    hlo.parse("HloModule nothing\n")


@pytest.mark.parametrize(
  ("shape", "size"),
  [
    ("f32[512,512]{1,0:T(8,128)S(1)}", 2**20),
    ("(bf16[8,128]{1,0}, /*index=1*/s32[], token[])", 2 * 1024 + 4),
    ("pred[16]", 16),
    ("s4[3]", 1),
    ("f32[<=8,2]", 64),
  ],
)
def test_sizes(shape, size):
  assert hlo.size_in_bytes(shape) == size


@pytest.mark.parametrize(
  ("attributes", "groups"),
  [
    ("replica_groups={{0,1},{2,3}}, x=1", ((0, 1), (2, 3))),
    ("replica_groups={}, x=1", ((0, 1, 2, 3),)),
    ("channel_id=1", ((0, 1, 2, 3),)),
    ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
    ("replica_groups=[2,2]<=[2,2]T(1,0), x=1", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x=1", ((0, 1), (2, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
    # The outer and the inner sub-axis of one axis.
    ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 2), (1, 3))),
    ("replica_groups=mesh['a'=4] {'a':(2)2}", ((0, 1), (2, 3))),
    (
      "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
      ((0, 2), (1, 3)),
    ),
    (
      "replica_groups=mesh['a'=2,'b'=2], device_ids=(3,2,1,0) {'b'}",
      ((3, 2), (1, 0)),
    ),
    ("source_target_pairs={{0,1},{3,2}}", ((0, 1), (3, 2))),
  ],
)
def test_replica_groups(attributes, groups):
  assert replica_groups(attributes, 4) == groups


def test_nested_scans_count_once_per_iteration():
  """Two updates of 3 microbatches; the inner limit passes two tuples."""
  work = measure(hlo.parse(excerpts.NESTED_SCANS), 16)
  assert work.cycles == {
    ("d_update", categories.CONVOLUTION): 2 * 3 * 1560,
    ("d_update", categories.OPTIMIZER): 2 * 3042,
    # The more expensive of two branches.
    (categories.NO_PHASE, categories.RELAYOUT): 4140,
  }
  assert work.flops == 2 * 3 * 2 * 512 * 512 * 64
  assert work.flops_once == 2 * 512 * 512 * 64
  (reduce,) = work.collectives
  assert (reduce.kind, reduce.count, reduce.bytes) == ("all-reduce", 2, 2**20)
  assert reduce.groups == (tuple(range(16)),)
  assert not reduce.asynchronous
  assert work.warnings == [
    "jit(step)/cond: one of 2 branches runs; the most expensive one is counted"
  ]


@pytest.mark.parametrize(
  ("old", "new", "count"),
  [
    ("constant(2)", "constant(7)", 7),
    ("direction=LT, metadata", "direction=LE, metadata", 3),
    ("direction=LT, metadata", "direction=NE, metadata", 2),
    # Counts down from 0, so the loop does not end.
    ("direction=LT, metadata", "direction=GT, metadata", None),
    ("add(%counter.1, %one.1)", "subtract(%counter.1, %one.1)", None),
    ("add(%counter.1, %one.1)", "multiply(%counter.1, %one.1)", None),
    ("%zero.2 = s32[]{:T(128)} constant(0)", "%zero.2 = s32[] constant(-5)", 7),
  ],
)
def test_trip_counts(old, new, count):
  text = excerpts.NESTED_SCANS.replace(old, new)
  assert text != excerpts.NESTED_SCANS
  module = hlo.parse(text)
  loop = module.entry.by_name["while.26"]
  assert trip_count(Frame(module, module.entry), loop, {}) == count


def test_unknown_trip_counts_use_a_hint_or_warn():
  text = excerpts.NESTED_SCANS.replace(
    "add(%counter.1, %one.1)", "multiply(%counter.1, %one.1)"
  )
  module = hlo.parse(text)
  work = measure(module, 16)
  assert any(
    "jit(step)/d_steps/while: the trip count of this loop" in one
    for one in work.warnings
  )
  assert work.collectives[0].count == 1
  hinted = measure(module, 16, {"d_steps": 5})
  assert hinted.collectives[0].count == 5
  assert len(hinted.warnings) == 1


def test_a_collective_across_fusions_counts_once():
  work = measure(hlo.parse(excerpts.ASYNC_FUSIONS), 16)
  (gather,) = work.collectives
  assert (gather.kind, gather.bytes) == ("all-gather", 2 * 4096 * 4096)
  assert gather.dtype == "bf16"
  assert gather.groups[1] == (4, 5, 6, 7)
  assert gather.asynchronous
  # The product runs at the same time, tanh before it.
  assert gather.hidden_cycles == 536412
  assert work.total_cycles == 537412


def test_between_slices_and_asynchronous():
  work = measure(hlo.parse(excerpts.TWO_SLICES), 16)
  found = {(one.kind, one.between_slices): one for one in work.collectives}
  assert len(found) == 3
  across = found["all-reduce", True]
  assert across.bytes == 2 * 1024 * 1024
  assert across.asynchronous
  assert across.hidden_cycles == 50_000
  permute = found["collective-permute", False]
  assert permute.hidden_cycles == 20_000
  assert permute.groups == ((0, 1), (1, 0))
  both = found["all-reduce", False]
  assert both.bytes == 2 * 4 * 1024 * 1024
  assert not both.asynchronous


def instruction(line):
  text = f"ENTRY %main (p: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
  return hlo.parse(text), hlo.parse(text).entry.instructions[0]


@pytest.mark.parametrize(
  ("line", "category"),
  [
    ("%a = f32[8] multiply(%p)", categories.ELEMENTWISE),
    ("%a = f32[8] transpose(%p)", categories.RELAYOUT),
    ("%a = f32[8] reduce-window(%p)", categories.RELAYOUT),
    ("%a = f32[8] convolution(%p)", categories.CONVOLUTION),
    ("%a = f32[8] rng-bit-generator(%p)", categories.OTHER),
    (
      '%a = f32[8] dot(%p), metadata={op_name="jit(s)/d_update/'
      'transpose(jvp(spectral_norm))/dot_general"}',
      categories.SPECTRAL,
    ),
    (
      '%a = f32[8] add(%p), metadata={op_name="jit(s)/ema/add"}',
      categories.OPTIMIZER,
    ),
    (
      '%a = f32[8] dot(%p), metadata={op_name="g_update/orthogonal/dot"}',
      categories.ORTHOGONAL,
    ),
    # A name that only contains the name of a scope is not that scope.
    (
      '%a = f32[8] add(%p), metadata={op_name="jit(s)/adamant/add"}',
      categories.ELEMENTWISE,
    ),
  ],
)
def test_categories(line, category):
  assert categories.category(*instruction(f"ROOT {line}")) == category
