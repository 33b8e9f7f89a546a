"""R3GAN's training step in plain PyTorch, the baseline of our timings.

It has the same networks, losses, penalties, Adam and moving average as
`bigscale.train`. It is idiomatic PyTorch, optimized for eager mode on a CPU:
`channels_last` (see `memory_format`), resampling by depthwise convolutions or
by slices (`resample`), one pass of D over reals and fakes, fused Adam, foreach
for the moving average. `torch.compile` is not used, because it does not support
second derivatives.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigscale.models.r3gan import R3ganSpec
from bigscale.spec import RunSpec, Schedule, require

_GAIN = (2 / (1 + 0.2**2)) ** 0.5


class BiasAct(nn.Module):
  def __init__(self, channels: int):
    super().__init__()
    self.bias = nn.Parameter(torch.zeros(channels))

  def forward(self, x_bchw: Tensor) -> Tensor:
    return F.leaky_relu(x_bchw + self.bias.view(1, -1, 1, 1), 0.2)


def conv(
  channels: int, out: int, size: int, gain: float, groups: int = 1
) -> nn.Conv2d:
  layer = nn.Conv2d(
    channels, out, size, padding=size // 2, groups=groups, bias=False
  )
  fan_in = channels // groups * size**2
  nn.init.normal_(layer.weight, std=gain / fan_in**0.5)
  return layer


class Block(nn.Module):
  def __init__(self, channels: int, inner: int, groups: int, gain: float):
    super().__init__()
    self.expand = conv(channels, inner, 1, gain)
    self.expand_act = BiasAct(inner)
    self.grouped = conv(inner, inner, 3, gain, groups)
    self.grouped_act = BiasAct(inner)
    self.reduce = conv(inner, channels, 1, 0.0)

  def forward(self, x_bchw: Tensor) -> Tensor:
    y = self.expand_act(self.expand(x_bchw))
    y = self.grouped_act(self.grouped(y))
    return x_bchw + self.reduce(y)


class Resampler:
  """Resamples with the filter [1, 3, 3, 1] / 8, up or down."""

  def __init__(self, how: str):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    self._kernel = taps[:, None] * taps
    self._depthwise = how == "depthwise"

  def _weights(self, x_bchw: Tensor) -> Tensor:
    channels = x_bchw.shape[1]
    return self._kernel.to(x_bchw).expand(channels, 1, 4, 4)

  def up(self, x_bchw: Tensor) -> Tensor:
    if self._depthwise:
      weights = 4 * self._weights(x_bchw)
      return F.conv_transpose2d(
        x_bchw, weights, stride=2, padding=1, groups=len(weights)
      )
    x = F.pad(x_bchw, (1, 1, 1, 1))
    rows = torch.stack(
      [x[:, :, :-2] + 3 * x[:, :, 1:-1], 3 * x[:, :, 1:-1] + x[:, :, 2:]], 3
    ).flatten(2, 3)
    x = torch.stack(
      [
        rows[..., :-2] + 3 * rows[..., 1:-1],
        3 * rows[..., 1:-1] + rows[..., 2:],
      ],
      4,
    ).flatten(3, 4)
    return x / 16

  def down(self, x_bchw: Tensor) -> Tensor:
    if self._depthwise:
      weights = self._weights(x_bchw)
      return F.conv2d(x_bchw, weights, stride=2, padding=1, groups=len(weights))
    x = F.pad(x_bchw, (1, 1, 1, 1))
    h, w = x_bchw.shape[2:]
    x = sum(tap * x[:, :, i : i + h : 2] for i, tap in enumerate((1, 3, 3, 1)))
    x = sum(tap * x[..., i : i + w : 2] for i, tap in enumerate((1, 3, 3, 1)))
    return x / 64


def _add_blocks(network: nn.Module, spec: R3ganSpec, stage: int) -> None:
  gain = _GAIN * sum(spec.blocks) ** -0.25
  for i in range(spec.blocks[stage]):
    network.add_module(
      f"stage{4 * 2**stage}_block{i}",
      Block(
        spec.widths[stage],
        spec.inner_width(stage),
        spec.cardinality[stage],
        gain,
      ),
    )


def _run_blocks(
  network: nn.Module, spec: R3ganSpec, stage: int, x_bchw: Tensor
) -> Tensor:
  for i in range(spec.blocks[stage]):
    x_bchw = network.get_submodule(f"stage{4 * 2**stage}_block{i}")(x_bchw)
  return x_bchw


class Generator(nn.Module):
  def __init__(self, spec: R3ganSpec, resampler: Resampler):
    super().__init__()
    self.spec, self.resampler = spec, resampler
    first, code = spec.widths[0], spec.latent_dim
    if spec.num_classes:
      self.classes = nn.Embedding(spec.num_classes, spec.class_embedding_dim)
      nn.init.normal_(self.classes.weight, std=spec.num_classes**-0.5)
      code += spec.class_embedding_dim
    self.basis = nn.Parameter(torch.randn(first, 4, 4))
    self.latents = nn.Linear(code, first, bias=False)
    nn.init.normal_(self.latents.weight, std=code**-0.5)
    for stage, width in enumerate(spec.widths):
      before = spec.widths[max(stage - 1, 0)]
      if width != before:
        name = f"stage{4 * 2**stage}_transition"
        self.add_module(name, conv(before, width, 1, 1.0))
      _add_blocks(self, spec, stage)
    self.to_rgb = conv(spec.widths[-1], spec.image_channels, 1, 1.0)

  def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
    spec = self.spec
    if spec.num_classes:
      latents = torch.cat([latents, self.classes(labels)], 1)
    x = self.basis * self.latents(latents)[:, :, None, None]
    for stage, width in enumerate(spec.widths):
      if stage:
        if width != spec.widths[stage - 1]:
          x = self.get_submodule(f"stage{4 * 2**stage}_transition")(x)
        x = self.resampler.up(x)
      x = _run_blocks(self, spec, stage, x)
    return self.to_rgb(x)


class Discriminator(nn.Module):
  def __init__(self, spec: R3ganSpec, resampler: Resampler):
    super().__init__()
    self.spec, self.resampler = spec, resampler
    first = spec.widths[0]
    self.from_rgb = conv(spec.image_channels, spec.widths[-1], 1, 1.0)
    for stage in range(len(spec.widths) - 1, -1, -1):
      _add_blocks(self, spec, stage)
      if stage and spec.widths[stage - 1] != spec.widths[stage]:
        self.add_module(
          f"stage{4 * 2**stage}_transition",
          conv(spec.widths[stage], spec.widths[stage - 1], 1, 1.0),
        )
    self.basis = nn.Parameter(torch.randn(first, 4, 4) / 4)
    self.logit = nn.Linear(first, first if spec.num_classes else 1, bias=False)
    nn.init.normal_(self.logit.weight, std=first**-0.5)
    if spec.num_classes:
      self.classes = nn.Embedding(spec.num_classes, first)
      nn.init.normal_(
        self.classes.weight, std=(first * spec.num_classes) ** -0.5
      )

  def forward(self, images_bchw: Tensor, labels: Tensor) -> Tensor:
    spec = self.spec
    x = self.from_rgb(images_bchw)
    for stage in range(len(spec.widths) - 1, -1, -1):
      x = _run_blocks(self, spec, stage, x)
      if stage:
        x = self.resampler.down(x)
        if spec.widths[stage - 1] != spec.widths[stage]:
          x = self.get_submodule(f"stage{4 * 2**stage}_transition")(x)
    logit = self.logit((x * self.basis).sum((2, 3)))
    if not spec.num_classes:
      return logit[:, 0]
    return (logit * self.classes(labels)).sum(1)


def _value(schedule: Schedule, images: int) -> float:
  if not schedule.kimg:
    return schedule.last
  share = min(images / (1000 * schedule.kimg), 1.0)
  fall = (1 + math.cos(math.pi * share)) / 2
  return schedule.last + (schedule.first - schedule.last) * fall


def _check(spec: RunSpec) -> None:
  model, loss = spec.model, spec.loss
  for name, found, wanted in (
    ("model.name", model.name, "r3gan"),
    ("model.hierarchical", getattr(model, "hierarchical", None), False),
    ("model.bf16_stages", getattr(model, "bf16_stages", None), 0),
    ("model.dtype", model.dtype, "float32"),
    ("loss.adversarial", loss.adversarial, "rpgan"),
    ("loss.penalty_interval", loss.penalty_interval, 1),
    ("augment.pipe", spec.augment.pipe, "none"),
    ("optim.d_steps", spec.optim.d_steps, 1),
  ):
    require(
      found == wanted,
      f"{name}={found!r}: the PyTorch peer knows {wanted!r} only; set that",
    )


class Trainer:
  """G, D, their optimizers and the moving average of G."""

  def __init__(
    self,
    spec: RunSpec,
    memory_format: torch.memory_format = torch.channels_last,
    resample: str = "depthwise",
  ):
    _check(spec)
    self.spec, self.images, self._format = spec, 0, memory_format
    resampler = Resampler(resample)
    torch.manual_seed(spec.seed)
    self.g, self.d, self.ema = (
      network.to(memory_format=memory_format)
      for network in (
        Generator(spec.model, resampler),
        Discriminator(spec.model, resampler),
        Generator(spec.model, resampler).requires_grad_(False),
      )
    )
    self.ema.load_state_dict(self.g.state_dict())
    self._optimizers = [
      torch.optim.Adam(
        network.parameters(),
        betas=(spec.optim.beta1, _value(spec.optim.beta2, 0)),
        eps=spec.optim.epsilon,
        fused=True,
      )
      for network in (self.g, self.d)
    ]

  def step(self, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Updates D, G and the average once, with two batches of reals."""
    (images, labels), (g_images, g_labels) = batches
    optim, loss = self.spec.optim, self.spec.loss
    latents = torch.randn(len(images), self.spec.model.latent_dim)
    with torch.no_grad():
      fakes = self.g(latents, labels)
    both = torch.cat([fakes, self._floats(images)]).requires_grad_()
    logits = self.d(both, torch.cat([labels, labels]))
    fake, real = logits.chunk(2)
    (gradient,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
    r2, r1 = gradient.square().sum((1, 2, 3)).chunk(2)
    d_loss = F.softplus(fake - real).mean()
    penalty = (
      _value(loss.r1_gamma, self.images) * r1.mean()
      + _value(loss.r2_gamma, self.images) * r2.mean()
    ) / 2
    self._update(1, d_loss + penalty, _value(optim.d_lr, self.images))

    latents = torch.randn(len(images), self.spec.model.latent_dim)
    self.d.requires_grad_(False)
    with torch.no_grad():
      real = self.d(self._floats(g_images), g_labels)
    fake = self.d(self.g(latents, g_labels), g_labels)
    g_loss = F.softplus(real - fake).mean()
    self._update(0, g_loss, _value(optim.g_lr, self.images))
    self.d.requires_grad_(True)
    self._average()
    self.images += len(images)
    return d_loss.item()

  def _floats(self, images_bhwc: Tensor) -> Tensor:
    x_bchw = images_bhwc.permute(0, 3, 1, 2).to(torch.float32)
    return (x_bchw / 127.5 - 1).contiguous(memory_format=self._format)

  def _update(self, player: int, loss: Tensor, lr: float) -> None:
    optimizer = self._optimizers[player]
    beta2 = _value(self.spec.optim.beta2, self.images)
    for group in optimizer.param_groups:
      group["lr"], group["betas"] = lr, (self.spec.optim.beta1, beta2)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  @torch.no_grad()
  def _average(self) -> None:
    optim, decay = self.spec.optim, self.spec.optim.ema_decay
    if optim.ema_half_life_kimg is not None:
      half_life = 1000 * _value(optim.ema_half_life_kimg, self.images)
      decay = 0.5 ** (self.spec.images_per_step / max(half_life, 1e-8))
    torch._foreach_lerp_(
      list(self.ema.parameters()), list(self.g.parameters()), 1 - decay
    )


def random_batches(spec: RunSpec) -> list[tuple[Tensor, Tensor]]:
  """Returns two random batches: images uint8 [B, H, W, C] and labels [B]."""
  model, count = spec.model, spec.global_batch_size
  shape = (count, model.resolution, model.resolution, model.image_channels)
  return [
    (
      torch.randint(0, 256, shape, dtype=torch.uint8),
      torch.randint(0, max(model.num_classes, 1), (count,)),
    )
    for _ in range(2)
  ]


def make_step(
  run_spec: RunSpec, threads: int = 2, **options: object
) -> Callable[[], float]:
  """Returns a function that runs one training step and returns D's loss.

  Args:
    run_spec: an `R3ganSpec` run without augmentation.
    threads: number of PyTorch threads.
    **options: arguments of `Trainer`.
  """
  torch.set_num_threads(threads)
  trainer = Trainer(run_spec, **options)
  batches = random_batches(run_spec)
  return lambda: trainer.step(batches)
