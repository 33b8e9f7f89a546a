"""What our code makes of golden files of BigGAN-PyTorch; see `golden_ports`."""

import functools

import jax.numpy as jnp
import numpy as np
from golden_ports import START, Port, nchw, nhwc

from bigscale.interop import biggan_deep_pytorch, biggan_pytorch
from bigscale.losses import regularizers
from bigscale.ops import spectral
from bigscale.train.state import Average, Player, average_of
from bigscale.train.step import Codes, GanStep, Reals


class BigganPort(Port):
  """BigGAN-PyTorch's `BigGAN`, trained as its `train_fns.py` does."""

  interop = biggan_pytorch

  def __init__(self, data, config):
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
    super().__init__(data, config, spec, self.interop)
    self.families = {
      "out": self.forward,
      "grad": self.gradients,
      "run": self.run,
      "final": self.run,
    }

    state = self.initial_state(0)
    self.compile(
      self.reals("in"),
      self.codes("in"),
      update_average=(
        GanStep(self.model, self.spec).update_average,
        state,
        START,
      ),
      judge=(self._judge, state.d, self.reals("in")),
      orthogonal=(
        lambda params: regularizers.orthogonal(params, self.model.g.orthogonal),
        state.g.params,
      ),
    )

  def kind(self, config):
    return {"name": "biggan", "hierarchical": config["hier"]}

  def codes(self, group, *where):
    z, y = (self.data[f"{group}/{name}"] for name in "zy")
    return Codes(jnp.asarray(z[where]), jnp.asarray(y[where], jnp.int32))

  def reals(self, group, *where):
    x, y = (self.data[f"{group}/{name}"] for name in ("x", "yx"))
    return Reals(nhwc(x[where]), jnp.asarray(y[where], jnp.int32))

  def _judge(self, d: Player, reals: Reals):
    """D in evaluation: [B, 1]."""
    params, _ = spectral.normalize(
      d.params, d.spectra, self.spec.model.spectral_epsilon
    )
    return self.model.d.apply({"params": params}, *reals)[:, None]

  def images(self, average: Average):
    return nchw(self.sample(average, self.codes("in")))

  @functools.cache  # noqa: B019
  def forward(self, draw):
    state = self.initial_state(draw)
    return {
      "out/G_eval": self.images(average_of(state.g)),
      "out/D_eval": self.judge(state.d, self.reals("in")),
    }

  @functools.cache  # noqa: B019
  def first_step(self, draw):
    """The updates of D and of G, as lists of (state, scalars)."""
    return self.step(self.initial_state(draw), 0)

  def step(self, state, t):
    updates = []
    d_steps = self.config["num_D_steps"]
    for k in range(d_steps):
      state, scalars = self.update_d(
        state, self.reals("run", t, k), self.codes("run", t, k), START
      )
      updates.append((state, scalars))
    # The hinge loss of G sees no reals.
    last = self.update_g(
      state, self.reals("run", t, 0), self.codes("run", t, d_steps), START
    )
    return [*updates, last]

  @functools.cache  # noqa: B019
  def gradients(self, draw):
    _, scalars = self.first_step(draw)[-1]
    sources = self.interop.g_sources(self.spec.model)
    found = {}
    for path, gradient in spectral.flatten(scalars["g/grad_norm"]).items():
      name, layout = sources[path]
      found[f"grad_G0/{name}"] = layout.theirs(np.asarray(gradient))
    return found

  @functools.cache  # noqa: B019
  def run(self, draw):
    state = self.initial_state(draw)
    rows = {"run/D_real": [], "run/D_fake": [], "run/G_loss": []}
    rows["run/ortho"] = []
    for t in range(self.config["steps"]):
      updates = self.step(state, t) if t else self.first_step(draw)
      for _, scalars in updates[:-1]:
        rows["run/D_real"].append(scalars["d/loss_real"])
        rows["run/D_fake"].append(scalars["d/loss_fake"])
      # G as its update found it.
      before, _ = updates[-2]
      state, scalars = updates[-1]
      rows["run/ortho"].append(self.orthogonal(before.g.params))
      rows["run/G_loss"].append(scalars["g/loss"])
      state, _ = self.update_average(state, START)
    answers = {key: np.array(row) for key, row in rows.items()}
    answers["run/G_final_eval"] = self.images(average_of(state.g))
    answers["run/D_final_eval"] = self.judge(state.d, self.reals("in"))
    answers["run/G_ema_eval"] = self.images(state.ema)
    for name, player, sources in (
      ("G", state.g, self.interop.g_sources),
      ("D", state.d, self.interop.d_sources),
    ):
      values = singular_values(player, sources(self.spec.model))
      answers |= {f"final_{name}/{key}": value for key, value in values.items()}
    return answers


class BigganDeepPort(BigganPort):
  """The same of `BigGANdeep`."""

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
