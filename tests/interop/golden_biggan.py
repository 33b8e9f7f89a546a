"""Computes the quantities of BigGAN's golden files; see `golden_ports`."""

import functools

import jax.numpy as jnp
import numpy as np
from golden_ports import Port, RecordingStep, nchw, nhwc

from bigscale.interop import biggan_deep_pytorch, biggan_pytorch
from bigscale.losses import orthogonal
from bigscale.ops import spectral
from bigscale.train.state import Average, Player, average_of
from bigscale.train.step import Codes, Reals


class BigganPort(Port):
  """BigGAN-PyTorch's `BigGAN`, trained as in its `train_fns.py`."""

  interop = biggan_pytorch

  def __init__(self, data, config, dtype, platform="cpu"):
    attention = [int(side) for side in config["attention"].split("_") if side]
    attention = [side for side in attention if side]
    model = {
      "resolution": config["resolution"],
      "image_channels": data["in/x"].shape[1],
      "num_classes": config["classes"],
      "latent_dim": int(data["dim_z"]),
      "g_width": config["ch"],
      "d_width": config["ch"],
      "shared_dim": config["shared_dim"] if config["shared"] else 0,
      "g_attention": attention,
      "d_attention": attention,
      "batch_norm_epsilon": 1e-5,
      "spectral_epsilon": 1e-6,
      "num_singular_values": config["svs"],
      **self.kind(config),
    }
    spec = {
      "global_batch_size": config["batch"],
      "total_kimg": 1.0,
      "model": model,
      "data": {"source": "golden"},
      "loss": {"adversarial": "hinge", "orthogonal": config["ortho"]},
      "optim": {
        "g_lr": config["G_lr"],
        "d_lr": config["D_lr"],
        "epsilon": 1e-6,
        "d_steps": config["num_D_steps"],
        "ema_decay": config["ema"],
      },
    }
    super().__init__(data, config, spec, self.interop, dtype, platform)
    self.families = {
      "out": self.forward,
      "grad": self.gradients,
      "run": self.run,
      "final": self.run,
    }
    self.d_steps = config["num_D_steps"]

  def kind(self, config):
    return {"name": "biggan", "hierarchical": config["hier"]}

  def codes(self, group, *where):
    z, y = (self.data[f"{group}/{name}"][where] for name in "zy")
    return Codes(jnp.asarray(z, self.dtype), jnp.asarray(y, jnp.int32))

  def reals(self, group, *where):
    x, y = (self.data[f"{group}/{name}"][where] for name in ("x", "yx"))
    return Reals(nhwc(x, self.dtype), jnp.asarray(y, jnp.int32))

  @functools.cached_property
  def evaluation(self):
    """The compiled programs `sample` and `judge`."""
    d, reals = self.initial_state().d, self.reals("in")
    return self.compile(
      sample=self.sampler(self.codes("in")), judge=(self._judge, d, reals)
    )

  @functools.cached_property
  def training(self):
    """The compiled updates, and the value of the orthogonal term."""
    step, state = RecordingStep(self.model, self.spec), self.initial_state()
    batch = (self.reals("run", 0, 0), self.codes("run", 0, 0), self.start)
    return self.compile(
      update_d=(step.update_d, state, *batch),
      update_g=(step.update_g, state, *batch),
      update_average=(step.update_average, state, self.start),
      orthogonal=(
        lambda params: orthogonal.orthogonal(params, self.model.g.orthogonal),
        state.g.params,
      ),
    )

  def _judge(self, d: Player, reals: Reals):
    """Returns D's logits in evaluation: [B, 1]."""
    params, _ = spectral.normalize(
      d.params, d.spectra, self.spec.model.spectral_epsilon
    )
    return self.model.d.apply({"params": params}, *reals)[:, None]

  def images(self, average: Average):
    return nchw(self.evaluation.sample(average, self.codes("in")))

  @functools.cache  # noqa: B019
  def forward(self):
    state = self.initial_state()
    return {
      "out/G_eval": self.images(average_of(state.g)),
      "out/D_eval": self.evaluation.judge(state.d, self.reals("in")),
    }

  @functools.cache  # noqa: B019
  def first_step(self):
    """Returns the updates of D and of G, as lists of (state, scalars)."""
    return self.step(self.initial_state(), 0)

  def step(self, state, t):
    updates = []
    for k in range(self.d_steps):
      state, scalars = self.training.update_d(
        state, self.reals("run", t, k), self.codes("run", t, k), self.start
      )
      updates.append((state, scalars))
    # The hinge loss of G ignores the reals.
    last = self.training.update_g(
      state,
      self.reals("run", t, 0),
      self.codes("run", t, self.d_steps),
      self.start,
    )
    return [*updates, last]

  @functools.cache  # noqa: B019
  def gradients(self):
    _, scalars = self.first_step()[-1]
    sources = self.interop.g_sources(self.spec.model)
    found = {}
    for path, gradient in spectral.flatten(scalars["g/grad_norm"]).items():
      name, layout = sources[path]
      found[f"grad_G0/{name}"] = layout.to_file(np.asarray(gradient))
    return found

  @functools.cache  # noqa: B019
  def run(self):
    state = self.initial_state()
    rows = {"run/D_real": [], "run/D_fake": [], "run/G_loss": []}
    rows["run/ortho"] = []
    for t in range(len(self.data["run/x"])):
      updates = self.step(state, t) if t else self.first_step()
      for _, scalars in updates[:-1]:
        rows["run/D_real"].append(scalars["d/loss_real"])
        rows["run/D_fake"].append(scalars["d/loss_fake"])
      # G before its update.
      before, _ = updates[-2]
      state, scalars = updates[-1]
      rows["run/ortho"].append(self.training.orthogonal(before.g.params))
      rows["run/G_loss"].append(scalars["g/loss"])
      state, _ = self.training.update_average(state, self.start)
    answers = {key: np.array(row) for key, row in rows.items()}
    answers["run/G_final_eval"] = self.images(average_of(state.g))
    answers["run/D_final_eval"] = self.evaluation.judge(
      state.d, self.reals("in")
    )
    answers["run/G_ema_eval"] = self.images(state.ema)
    for name, player, sources in (
      ("G", state.g, self.interop.g_sources),
      ("D", state.d, self.interop.d_sources),
    ):
      values = singular_values(player, sources(self.spec.model))
      answers |= {f"final_{name}/{key}": value for key, value in values.items()}
    return answers


class BigganDeepPort(BigganPort):
  """BigGAN-PyTorch's `BigGANdeep`, trained in the same way."""

  interop = biggan_deep_pytorch

  def kind(self, config):
    return {
      "name": "biggan_deep",
      "layout": "pytorch",
      "g_depth": config["depth"],
      "d_depth": config["depth"],
    }


def singular_values(player, sources):
  return {
    f"{sources[path].name.removesuffix('weight')}sv{rank}": sigma.reshape(1)
    for path, spectrum in player.spectra.items()
    for rank, sigma in enumerate(spectrum.sigma)
  }
