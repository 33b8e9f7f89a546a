"""Computes the quantities of a golden file with bigscale, by the file's names.

A port reads the networks, inputs and settings of one file. It answers each
quantity as {key of the file: array in PyTorch's layout}. Updates use training's
own `GanStep`, modified only to return gradients.

A port computes in float32 or float64, independently of the file's dtype. Create
and use it in the context `precision` of its dtype.
"""

import concurrent.futures
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from bigscale.interop import r3gan
from bigscale.interop.tensors import ConvertedWeights
from bigscale.losses import adversarial, r1_r2
from bigscale.models.make import make_model
from bigscale.ops import spectral
from bigscale.spec import from_config
from bigscale.train import augmentation
from bigscale.train.optim import adam
from bigscale.train.state import GanState, Player, average_of, init_dials
from bigscale.train.step import Codes, GanStep, Reals, generate
from tests.fast_compile import OPTIONS


def precision(dtype: str):
  """Returns a context in which JAX computes in `dtype`, float32 or float64."""
  return jax.enable_x64(dtype == "float64")


class RecordingStep(GanStep):
  """Returns the gradients in place of the scalar of their norm."""

  def _adam_step(self, player, gradients, lr, images):
    player, _ = super()._adam_step(player, gradients, lr, images)
    return player, {"grad_norm": gradients}


def nhwc(images, dtype):
  return jnp.asarray(np.moveaxis(images, -3, -1), dtype)


def nchw(images):
  return np.moveaxis(np.asarray(images), -1, -3)


def strip(data, prefix):
  """Returns the tensors under `prefix`, with the prefix removed."""
  return {
    name.removeprefix(prefix): data[name]
    for name in data
    if name.startswith(prefix)
  }


def player(spec, weights: ConvertedWeights) -> Player:
  params, stats, spectra = jax.tree.map(jnp.asarray, tuple(weights))
  optimizer = jax.eval_shape(adam(spec.optim, 1.0, 0.0).init, params)
  # All of Adam's leaves start at zero.
  optimizer = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), optimizer)
  return Player(params, stats, spectra, jax.tree.map(jnp.asarray, optimizer))


class Port:
  """Code shared by the model families.

  A subclass sets `families`, which maps the first word of a quantity to the
  method that computes all answers of that kind.
  """

  def __init__(self, data, config, spec, interop, dtype, platform):
    """Reads the networks.

    Args:
      data: contents of the file, {key: array}.
      config: settings stored in the file.
      spec: spec of the recorded run, as a config, without the model's dtype.
      interop: module that reads these networks.
      dtype: dtype to compute in.
      platform: platform whose form of the networks is used; every form runs
        here.
    """
    spec["model"]["dtype"] = dtype
    self.data, self.config, self.dtype = data, config, dtype
    self.spec = from_config(spec)
    self.model = make_model(self.spec.model, platform)
    self.g = interop.generator(self.spec.model, strip(data, "G/"))
    self.d = interop.discriminator(self.spec.model, strip(data, "D/"))
    # Number of images seen; all schedules are constant here.
    self.start = np.zeros((), dtype)

  def compile(self, **programs):
    """Compiles programs in parallel, (function, *example arguments) each.

    Returns:
      A namespace of the compiled programs, under the same names.
    """

    def compiled(function, *arguments):
      # A thread does not inherit the context.
      with precision(self.dtype):
        return jax.jit(function).lower(*arguments).compile(OPTIONS)

    with concurrent.futures.ThreadPoolExecutor() as pool:
      futures = {
        name: pool.submit(compiled, *program)
        for name, program in programs.items()
      }
      return types.SimpleNamespace(
        **{name: future.result() for name, future in futures.items()}
      )

  def sampler(self, codes):
    """Returns the sampler and its arguments, for `compile`."""
    sample = functools.partial(generate, self.model, self.spec)
    return sample, average_of(self.initial_state().g), codes

  def initial_state(self) -> GanState:
    zero = jnp.zeros((), jnp.int32)
    g, d = player(self.spec, self.g), player(self.spec, self.d)
    return GanState(
      zero,
      zero,
      zero,
      g,
      d,
      average_of(g),
      augmentation.init(self.spec),
      init_dials(g.spectra),
    )

  def answer(self, quantity):
    """Returns {key: array} for a key, or for a prefix of several keys."""
    family = quantity.split("/")[0].split("_")[0]
    answers = self.families[family]()
    found = {
      key: value
      for key, value in answers.items()
      if key == quantity or key.startswith(f"{quantity}/")
    }
    if found:
      return found
    raise KeyError(f"no answer to {quantity}")


class R3ganPort(Port):
  """`Networks.Generator/Discriminator` and `Trainer.AdversarialTraining`."""

  def __init__(self, data, config, dtype, platform="cpu"):
    embedding = data.get("G/EmbeddingLayer.weight", np.zeros((1, 1)))
    model = {
      "name": "r3gan",
      "resolution": data["in/x"].shape[-1],
      "image_channels": data["in/x"].shape[1],
      "num_classes": config.get("classes", 0),
      "latent_dim": config["noise"],
      "widths": config["width"],
      "blocks": config["blocks"],
      "cardinality": config["cardinality"],
      "expansion": config["expansion"],
      "class_embedding_dim": embedding.shape[0],
    }
    spec = {
      "global_batch_size": config["batch"],
      "total_kimg": 1.0,
      "model": model,
      "data": {"source": "golden"},
      "loss": {
        "adversarial": "rpgan",
        "r1_gamma": config["gamma"],
        "r2_gamma": config["gamma"],
      },
      "optim": {
        "g_lr": config["lr"],
        "d_lr": config["lr"],
        "beta2": config["beta2"],
      },
    }
    super().__init__(data, config, spec, r3gan, dtype, platform)
    self.families = {
      "out": self.forward,
      "loss": self.forward,
      "grad": self.gradients,
      "run": self.run,
    }
    count = data["in/z"].shape[0]
    labels = data.get("in/labels", np.zeros(count))
    self.labels = jnp.asarray(labels, jnp.int32)
    self.codes = self.codes_of(data["in/z"])
    self.reals = self.reals_of(data["in/x"])

    step, state = RecordingStep(self.model, self.spec), self.initial_state()
    arguments = (state, self.reals, self.codes, self.start)
    self.programs = self.compile(
      update_d=(step.update_d, *arguments),
      update_g=(step.update_g, *arguments),
      sample=self.sampler(self.codes),
      judge=(self._judge, state.d, self.reals.images),
    )

  def codes_of(self, z):
    return Codes(jnp.asarray(z, self.dtype), self.labels)

  def reals_of(self, x):
    return Reals(nhwc(x, self.dtype), self.labels)

  def _judge(self, d: Player, images):
    """Returns logits and squared gradients of images."""
    variables = {"params": d.params, "batch_stats": {}}
    return r1_r2.logits_and_gradient_penalty(
      lambda x: self.model.d.apply(variables, x, self.labels), images
    )

  @functools.cache  # noqa: B019 - ports live as long as the tests
  def forward(self):
    state = self.initial_state()
    fakes = self.programs.sample(average_of(state.g), self.codes)
    real, r1 = self.programs.judge(state.d, self.reals.images)
    fake, r2 = self.programs.judge(state.d, fakes)
    return {
      "out/G": nchw(fakes),
      "out/D_real": real,
      "out/D_fake": fake,
      "loss/D_adversarial": adversarial.rpgan_d(real, fake),
      "loss/D_relativistic_logits": real - fake,
      "loss/R1": r1,
      "loss/R2": r2,
      "loss/G_adversarial": adversarial.rpgan_g(real, fake),
    }

  @functools.cache  # noqa: B019
  def gradients(self):
    arguments = (self.initial_state(), self.reals, self.codes, self.start)
    spec = self.spec.model
    found = {}
    for name, update, sources in (
      ("D", self.programs.update_d, r3gan.d_sources(spec)),
      ("G", self.programs.update_g, r3gan.g_sources(spec)),
    ):
      _, scalars = update(*arguments)
      gradients = spectral.flatten(scalars[f"{name.lower()}/grad_norm"])
      for path, (theirs, layout) in sources.items():
        found[f"grad_{name}/{theirs}"] = layout.to_file(
          np.asarray(gradients[path])
        )
    return found

  @functools.cache  # noqa: B019
  def run(self):
    state, d_losses, g_losses = self.initial_state(), [], []
    gamma = self.config["gamma"]
    for z, x in zip(self.data["run/z"], self.data["run/x"], strict=True):
      reals = self.reals_of(x)
      d_codes, g_codes = map(self.codes_of, z)
      state, scalars = self.programs.update_d(state, reals, d_codes, self.start)
      penalties = scalars["d/r1"] + scalars["d/r2"]
      d_losses.append(scalars["d/loss"] + gamma / 2 * penalties)
      state, scalars = self.programs.update_g(state, reals, g_codes, self.start)
      g_losses.append(scalars["g/loss"])
    images = self.programs.sample(average_of(state.g), self.codes)
    return {
      "run/D_loss": np.array(d_losses),
      "run/G_loss": np.array(g_losses),
      "run/G_final": nchw(images),
    }
