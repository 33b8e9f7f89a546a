"""Names of scores and their validation."""

import dataclasses
import pathlib
import re

import pytest

from bigscale.spec import CheckpointSpec, EvalSpec, ScoreKind, SpecError
from bigscale.spec.scores import (
  FEATURES,
  KINDS,
  Score,
  by_feature,
  directions,
  kind_of,
  network_of,
  rises,
)


def test_every_score_has_unique_columns():
  over = {kind: kind_of(kind).over for kind in KINDS}
  names = [
    f"{kind}_{feature}" if over[kind] == "features" else kind
    for kind in KINDS
    for feature in FEATURES
  ]
  known = directions(names)  # Raises if two have the same name.
  for name, direction in known.items():
    if direction:
      assert rises(name) == (direction == "more")


def test_rows_have_the_names_of_their_keys():
  assert all(kind_of(name).name == name for name in KINDS)
  networks = [name for name in FEATURES if name != "classifier"]
  assert all(network_of(name).name == name for name in networks)
  with pytest.raises(SpecError, match="'classifier' is not a feature network"):
    network_of("classifier")


def test_the_published_distance_keeps_its_name():
  assert Score.parse("fid_inception") == Score.parse("fd_inception")
  assert Score.parse("fid_inception").columns == ("fid_inception",)
  assert Score.parse("fd_classifier").columns == ("fd_classifier",)
  assert Score.parse("pr_inception").columns == (
    "precision_inception",
    "recall_inception",
  )


def test_names_with_more_than_one_underscore():
  assert Score.parse("fd_infinity_inception") == ("fd_infinity", "inception")
  assert Score.parse("fd_infinity_efflite0").columns == (
    "fd_infinity_efflite0",
    "fd_infinity_standard_error_efflite0",
  )
  clean = Score.parse("fid_inception_clean")
  assert clean == ("fd", "inception_clean")
  assert clean.columns == ("fid_inception_clean",)
  assert Score.parse("kid_inception_clean").columns[0] == "kid_inception_clean"
  assert Score.parse("ms_ssim") == ("ms_ssim", "")
  assert Score.parse("ms_ssim").columns == ("ms_ssim",)


def test_scores_are_grouped_by_network():
  names = ("fid_inception", "ms_ssim", "kid_inception", "fd_classifier")
  assert by_feature(names) == {
    "inception": ("fd", "kid"),
    "": ("ms_ssim",),
    "classifier": ("fd",),
  }


@pytest.mark.parametrize(
  "name",
  [
    "fid",
    "fid_classifier",
    "classifier",
    "_classifier",
    "fd_",
    "fd_vgg",
    "x_inception",
    "ms_ssim_inception",
    "fd_clean",
  ],
)
def test_an_unknown_score_is_refused_by_name(name):
  with pytest.raises(SpecError, match=f"'{name}'.*KIND_FEATURE"):
    EvalSpec(scores=(name,))


def test_empty_scores_are_refused():
  with pytest.raises(SpecError, match=r"evaluate\.scores is empty"):
    EvalSpec(scores=())


@pytest.mark.parametrize(
  ("column", "more"),
  [
    ("is_inception", True),
    ("recall_classifier", True),
    ("coverage_classifier", True),
    ("fid_inception", False),
    ("kid_classifier", False),
    ("intra_fd_worst_classifier", False),
    ("is_inception_clean", True),
    ("fd_infinity_inception", False),
    # Less similarity is more diversity.
    ("ms_ssim", False),
  ],
)
def test_which_scores_are_better_when_higher(column, more):
  assert rises(column) == more


def test_the_best_checkpoint_needs_a_measured_column(tiny_spec):
  assert tiny_spec.best_score == "fd_classifier"
  evaluate = EvalSpec(scores=("kid_classifier", "pr_classifier"))
  measured = dataclasses.replace(tiny_spec, evaluate=evaluate)
  assert measured.best_score == "kid_classifier"
  best = CheckpointSpec(best="recall_classifier")
  chosen = dataclasses.replace(measured, checkpoint=best)
  assert chosen.best_score == "recall_classifier"
  with pytest.raises(SpecError, match=r"checkpoint.best='fd_classifier'"):
    dataclasses.replace(
      measured, checkpoint=CheckpointSpec(best="fd_classifier")
    )


@pytest.fixture
def tiny_spec():
  from bigscale.spec import from_config
  from tests.e2e import tiny

  return from_config(tiny.get_config())


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({}, r"'new' does not say which way is better .*columns=\{'new': 'more'\}"),
    ({"columns": ("new",)}, "does not say which way is better"),
    ({"columns": {"new": "up"}}, "column 'new' .* the direction 'up'.*'more'"),
    ({"columns": {"New!": "more"}}, "'New!' of a column of score 'new'"),
    ({"columns": {"new": "more"}, "name": "my new"}, "'my new' of a score"),
    (
      {"columns": {"new": "more"}, "compute": 3},
      "compute=3; it must be a function",
    ),
    ({"columns": {"new": "more"}, "over": "text"}, "over='text'; choose from"),
    (
      {"columns": {"new": "more"}, "keeps": ("images",)},
      r"keeps=\('images',\); choose from features, probabilities in a tuple",
    ),
    (
      {"columns": {"new": "more"}, "over": "pixels", "single_reals": True},
      "over pixels, where keeps and single_reals do not apply",
    ),
  ],
)
def test_incomplete_rows_are_refused(changes, words):
  with pytest.raises(SpecError, match=words):
    ScoreKind(**{"name": "new", "compute": dict, **changes})


def test_two_names_of_one_score_give_one_column():
  assert EvalSpec(scores=("fd_inception", "fid_inception")).columns == (
    "fid_inception",
  )


def test_a_standard_error_cannot_rank_checkpoints(tiny_spec):
  evaluate = EvalSpec(scores=("kid_classifier",))
  best = CheckpointSpec(best="kid_standard_error_classifier")
  with pytest.raises(SpecError, match="neither better when higher nor"):
    dataclasses.replace(tiny_spec, evaluate=evaluate, checkpoint=best)


DOCS = pathlib.Path(__file__).parents[2] / "docs/reference/metrics.md"


def table(header):
  """Returns the cells of a table in the docs, by the first cell of each row."""
  _, _, rest = DOCS.read_text().partition(f"| {header} |")
  lines = rest.partition("\n\n")[0].splitlines()[2:]
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
  return {
    name: cells
    for first, *cells in rows
    for name in re.findall("`(.+?)`", first)
  }


def test_docs_agree_with_the_rows():
  told = table("kind | columns | better")
  assert list(told) == list(KINDS)
  for kind, (columns, better, _) in told.items():
    names = re.findall("`(.+?)`", columns.partition("(")[0])
    directions = [None if d == "-" else d for d in better.split(", ")]
    said = dict(zip(names, directions, strict=True))
    assert said == dict(kind_of(kind).columns), kind
  assert list(table("feature")) == list(FEATURES)
  takes = table("score | samples | reals")
  assert set(takes) == set(KINDS)
  for kind, (samples, reals, besides) in takes.items():
    row, numbers = kind_of(kind), (1000, 17)
    for said, least in zip((samples, reals), row.fewest(*numbers), strict=True):
      words = said.partition(" of each class")[0]
      known = {"": 0, "F + 1": 1001, "10 (F + 1)": 10010, "K": 17}
      assert (known[words] if words in known else int(words)) == least, kind
    assert ("of each class" in samples) == row.within_classes
    assert ("labels" in besides) == row.labels
