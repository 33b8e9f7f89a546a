"""Failing scores do not end a run, and invalid scores prevent its start."""

import json
import os
import signal

import jax
import numpy as np
import pytest

from bigscale.cli.main import main
from bigscale.metrics.evaluator import Scored
from bigscale.metrics.looking import Asked
from bigscale.parallel import interruption
from bigscale.parallel.mesh import make_mesh
from bigscale.report import write_report
from bigscale.spec import SpecError, from_config
from bigscale.train import best, evaluation, loop
from bigscale.train.build import build
from bigscale.train.preemption import PreemptedError
from tests.e2e import tiny

STEPS = 3


class Scores:
  """An evaluator with a prescribed outcome for each score.

  An entry of `told` is a value to return, an exception to raise, or a function
  to call.
  """

  def __init__(self, *told):
    self.reference = {"images": 0}
    self.throughput = {}
    self.failed = {}
    self.asked = Asked((), (), num_samples=4, num_classes=0)
    self.told = iter(told)

  def compare(self, looked):
    now = next(self.told)
    if isinstance(now, BaseException):
      raise now
    return now() if callable(now) else Scored({"fd_classifier": now})


def config_of(**evaluate):
  config = tiny.smallest(spectra_interval=0)
  config.total_kimg = STEPS * 8 / 1000
  config.log = {"steps": 1, "num_samples": 4, "tensorboard": False}
  config.evaluate = {
    "kimg": 0.008,
    "num_samples": 4,
    "batch_size": 4,
    "scores": ("fd_classifier", "kid_classifier"),
    **evaluate,
  }
  config.checkpoint = {"keep": 3, "keep_best": 1}
  config.monitor = {"action": "off"}
  return config


@pytest.fixture(scope="module")
def built():
  """Builds a run whose steps do nothing, because they compile slowly."""
  spec = from_config(config_of())
  real = build(spec, make_mesh(spec.mesh, jax.devices()[:1]))
  losses = {"d/loss": np.float32(0.7), "g/loss": np.float32(0.7)}
  return real._replace(step=lambda state, batch: (state, losses))


def train(folder, built, *told):
  prepared = loop.Prepared(built, Scores(*told))
  return loop.train(built.spec, folder, prepared=prepared)


def lines(folder, name):
  return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events(folder, kind):
  return [e for e in lines(folder, "events.jsonl") if e["event"] == kind]


def failed(folder):
  return [(e["step"], e["score"]) for e in events(folder, "score_failed")]


def noted(folder, step):
  return best.read(folder / "checkpoints" / str(step), step)


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (SpecError("3 of 4 samples have features that are not finite"), "3 of 4"),
    (FileNotFoundError(2, "No such file", "weights.npz"), "weights.npz"),
  ],
)
def test_a_failure_is_an_event_and_the_run_continues(
  tmp_path, built, error, words, caplog
):
  done = train(tmp_path, built, 5.0, error, 4.0)
  assert done.scores == {"fd_classifier": 4.0}
  assert failed(tmp_path) == [(2, "fd_classifier"), (2, "kid_classifier")]
  for event in events(tmp_path, "score_failed"):
    assert words in event["error"]
  assert "step 2: cannot compute kid_classifier" in caplog.text
  assert [noted(tmp_path, step) for step in (1, 2, 3)] == [
    {"fd_classifier": 5.0},
    {},
    {"fd_classifier": 4.0},
  ]
  page = write_report(tmp_path).read_text()
  assert "fd_classifier is missing at step 2: " in page


def test_other_scores_are_kept(tmp_path, built):
  part = Scored({"fd_classifier": 3.0}, {"kid_classifier": "no memory"})
  done = train(tmp_path, built, 5.0, 4.0, lambda: part)
  assert (done.scores, done.failed) == tuple(part)
  assert failed(tmp_path) == [(3, "kid_classifier")]
  rows = {row["step"]: row for row in lines(tmp_path, "metrics.jsonl")}
  assert rows[3]["step"] == 3
  assert noted(tmp_path, 3) == {"fd_classifier": 3.0}
  assert "kid_classifier is missing at step 3; there is no newer value" in (
    write_report(tmp_path).read_text()
  )


def test_a_failure_of_sampling_does_not_end_the_run(tmp_path, built):
  def broken(*arguments):
    raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

  # The first two calls fail. They sample for the scores of steps 1 and 2.
  spec = built.spec
  calls = []

  def sample(*arguments):
    calls.append(0)
    return built.sample(*arguments) if len(calls) > 2 else broken()

  prepared = loop.Prepared(built._replace(sample=sample), Scores(1.0))
  done = loop.train(spec, tmp_path, prepared=prepared)
  assert done.scores == {"fd_classifier": 1.0}
  assert {step for step, _ in failed(tmp_path)} == {1, 2}
  assert "RESOURCE_EXHAUSTED" in events(tmp_path, "score_failed")[0]["error"]


def test_all_processes_open_the_scores_equally_often(
  tmp_path, built, monkeypatch
):
  """Opening the inputs of scores is a decision of all processes."""
  asked = []

  def opened_elsewhere(spec):
    asked.append(spec)

  def broken(spec):
    raise SpecError("nothing is open")

  monkeypatch.setattr(loop, "open_on_main", opened_elsewhere)
  monkeypatch.setattr(evaluation, "open_scores", broken)
  for starts in (1, 2):
    loop.train(built.spec, tmp_path, prepared=loop.Prepared(built))
    # The second start finds the run complete and scores nothing.
    assert len(asked) == 1, starts


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_user_interrupt_ends_the_run(tmp_path, built, end):
  with pytest.raises(end):
    train(tmp_path, built, 5.0, end())
  assert not failed(tmp_path)


def test_a_step_is_not_scored_forever(tmp_path, built):
  """Scoring ends the process each time."""

  class KilledError(BaseException):
    pass

  for _ in range(3):
    with pytest.raises(KilledError):
      train(tmp_path, built, KilledError())
  done = train(tmp_path, built, 2.0, 1.0)
  assert done.scores == {"fd_classifier": 1.0}
  assert failed(tmp_path) == [(1, "fd_classifier"), (1, "kid_classifier")]
  (event, _) = events(tmp_path, "score_failed")
  assert "2 starts of the run ended" in event["error"]
  assert [event["step"] for event in events(tmp_path, "catch_up")] == [1, 1]


def test_failed_scores_are_not_repeated_after_a_resume(tmp_path, built):
  class KilledError(BaseException):
    pass

  with pytest.raises(KilledError):
    # Dies in the step after the one whose scores failed.
    train(tmp_path, built, ValueError("none"), KilledError())
  (tmp_path / "checkpoints" / "2").rename(tmp_path / "2")
  train(tmp_path, built, 2.0, 1.0)
  assert noted(tmp_path, 1) == {}
  assert {step for step, _ in failed(tmp_path)} == {1}


def test_sigterm_interrupts_scoring_and_a_resume_repeats_it(tmp_path, built):
  reached = []

  def long():
    for part in range(100):
      reached.append(part)
      if part == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      interruption.point()

  with pytest.raises(PreemptedError, match="step 2 is saved"):
    train(tmp_path, built, 5.0, long)
  assert reached[-1] <= 4
  kinds = [event["event"] for event in lines(tmp_path, "events.jsonl")]
  assert kinds[-1] == "preempted"
  assert not failed(tmp_path)
  assert noted(tmp_path, 2) is None
  done = train(tmp_path, built, 3.0, 2.0)
  assert noted(tmp_path, 2) == {"fd_classifier": 3.0}
  assert done.scores == {"fd_classifier": 2.0}


def test_sigterm_during_sampling_interrupts_missing_scores(tmp_path, built):
  drawn = []

  def sample(*arguments):
    drawn.append(0)
    if len(drawn) == 2:
      os.kill(os.getpid(), signal.SIGTERM)
    return built.sample(*arguments)

  spec = from_config(config_of(num_samples=400))
  told = Scores(5.0)
  told.asked = told.asked._replace(num_samples=400)
  changed = built._replace(sample=sample, spec=spec)
  for life in (1, 2):
    drawn.clear()
    with pytest.raises(PreemptedError):
      loop.train(spec, tmp_path, prepared=loop.Prepared(changed, told))
    # A hundred batches would be drawn without the signal.
    assert len(drawn) <= 3
    assert len(events(tmp_path, "catch_up")) == life - 1


def test_a_run_that_is_ending_does_not_score(tmp_path, built):
  def grid(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    return built.step(*arguments)

  prepared = loop.Prepared(built._replace(step=grid), Scores())
  with pytest.raises(PreemptedError, match="step 1 is saved"):
    loop.train(built.spec, tmp_path, prepared=prepared)


class Opened(evaluation.Opened):
  """Measures the reals as told; see `Scores`."""

  def __init__(self, *told):
    self.told, self.calls = iter(told), 0

  def evaluator(self, *, strict=True):
    assert not strict
    self.calls += 1
    now = next(self.told)
    if isinstance(now, Exception):
      raise now
    return now


def test_measuring_the_reals_is_retried_at_later_scores(tmp_path, built):
  none = Scores()
  none.failed = dict.fromkeys(
    ("fd_classifier", "kid_classifier"), "too many records cannot be used"
  )
  opened = Opened(OSError("stale file handle"), none, Scores(4.0))
  done = loop.train(built.spec, tmp_path, prepared=loop.Prepared(built, opened))
  assert opened.calls == 3
  assert done.scores == {"fd_classifier": 4.0}
  assert [event["error"] for event in events(tmp_path, "score_failed")] == [
    *["OSError: stale file handle"] * 2,
    *["too many records cannot be used"] * 2,
  ]


def test_measuring_the_reals_is_not_retried_forever(
  tmp_path, built, monkeypatch
):
  monkeypatch.setattr(evaluation, "_MAX_ATTEMPTS", 2)
  opened = Opened(OSError("a"), OSError("b"))
  loop.train(built.spec, tmp_path, prepared=loop.Prepared(built, opened))
  assert opened.calls == 2
  assert [event["error"] for event in events(tmp_path, "score_failed")] == [
    *["OSError: a"] * 2,
    *["OSError: b"] * 4,
  ]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
  """Starts a run with settings of `evaluate` and returns its messages."""
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "cache"))
  config = tmp_path / "config.py"
  config.write_text(
    "from tests.train.test_scores_that_fail import config_of\n"
    "def get_config():\n  return config_of()\n"
  )

  def run(*arguments):
    workdir = tmp_path / "run"
    code = main(
      [
        *("bigscale", "train", f"--config={config}", f"--workdir={workdir}"),
        *arguments,
      ]
    )
    assert code == 2
    assert not workdir.exists()
    return capsys.readouterr().err

  return run


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    (
      ("scores=('fid_inception',)", "num_samples=3000"),
      ("fid_inception cannot be computed: there are no weights", "import"),
    ),
    (
      ("scores=('fd_classifier','ms_ssim')", "num_samples=64"),
      (
        "2 of 2 scores cannot be computed:",
        "evaluate.num_samples=64 is too few for fd_classifier",
        "images of 4 x 4 px are too small for ms_ssim",
      ),
    ),
    (
      ("scores=('intra_fd_classifier',)", "num_samples=649"),
      ("has too few samples of class", "(64)", "at least 65 over 64 features"),
    ),
    (("scores=('kid_classifier',)", "num_reals=99999999"), ("num_reals",)),
  ],
)
def test_invalid_scores_are_rejected_before_step_1(refused, arguments, words):
  said = refused(*(f"--config.evaluate.{each}" for each in arguments))
  assert "Traceback" not in said
  for word in words:
    assert word in said


def test_a_class_with_too_few_images_is_named(refused, tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (430, 4, 4, 1), np.uint8)
  labels = np.repeat([0, 1, 2, 3, 4, 5, 6], [100, 100, 40, 60, 30, 70, 30])
  np.savez(tmp_path / "set.npz", images=images, labels=labels)
  said = refused(
    f"--config.data.source={tmp_path / 'set.npz'}",
    "--config.model.num_classes=7",
    "--config.evaluate.scores=('intra_fd_classifier',)",
    "--config.evaluate.num_samples=5000",
  )
  assert "too few reals of 4 classes: " in said
  assert "add images of the class" in said


def test_a_model_without_labels_has_no_scores_within_classes(refused):
  said = refused(
    "--config.model.num_classes=0",
    "--config.evaluate.scores=('intra_fd_classifier',)",
  )
  assert "the samples have no classes" in said


def test_a_cache_that_cannot_be_created(refused, tmp_path, monkeypatch):
  (tmp_path / "file").write_text("")
  monkeypatch.setenv("BIGSCALE_CACHE", str(tmp_path / "file" / "cache"))
  said = refused("--config.evaluate.num_samples=100")
  assert "cannot create the cache" in said
  assert "set BIGSCALE_CACHE" in said


def test_a_complete_run_opens_no_scores(tmp_path, built, monkeypatch):
  train(tmp_path, built, 3.0, 2.0, 1.0)
  monkeypatch.setattr(evaluation, "open_scores", None)
  done = loop.train(built.spec, tmp_path, prepared=loop.Prepared(built))
  assert done.scores == {}
