"""BigGAN's training step in plain PyTorch, the baseline of our timings.

It has the same networks, hinge loss, spectral norm, batch norm, Adam and moving
average as `bigscale.train`, in idiomatic PyTorch: PyTorch's own spectral norm
and batch norm, `channels_last` (see `memory_format`), fused Adam, foreach for
the moving average. As in bigscale, the 1x1 convolutions of shortcuts run where
maps are small, and one pass of D covers reals and fakes.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from bigscale.models.biggan import BigganSpec
from bigscale.models.biggan.spec import D_WIDTHS, G_WIDTHS, d_sides, g_sides
from bigscale.spec import RunSpec, require


def _normal(layer: nn.Module, spec: BigganSpec) -> nn.Module:
  """Applies orthogonal initialization and spectral norm."""
  nn.init.orthogonal_(layer.weight)
  return spectral_norm(layer, eps=spec.spectral_epsilon)


class ConditionalNorm(nn.Module):
  def __init__(self, spec: BigganSpec, channels: int, condition: int):
    super().__init__()
    self.norm = nn.BatchNorm2d(
      channels,
      eps=spec.batch_norm_epsilon,
      momentum=1 - spec.batch_norm_momentum,
      affine=False,
    )
    linear = functools.partial(nn.Linear, condition, channels, bias=False)
    self.gain = _normal(linear(), spec)
    self.bias = _normal(linear(), spec)

  def forward(self, x_bchw: Tensor, condition: Tensor) -> Tensor:
    gain = 1 + self.gain(condition)[:, :, None, None]
    bias = self.bias(condition)[:, :, None, None]
    return torch.addcmul(bias, self.norm(x_bchw), gain)


class Attention(nn.Module):
  def __init__(self, spec: BigganSpec, channels: int):
    super().__init__()

    def conv(inputs: int, outputs: int) -> nn.Module:
      return _normal(nn.Conv2d(inputs, outputs, 1, bias=False), spec)

    self.theta = conv(channels, channels // 8)
    self.phi = conv(channels, channels // 8)
    self.g = conv(channels, channels // 2)
    self.o = conv(channels // 2, channels)
    self.gamma = nn.Parameter(torch.zeros(()))

  def forward(self, x_bchw: Tensor) -> Tensor:
    query = self.theta(x_bchw).flatten(2)
    key = F.max_pool2d(self.phi(x_bchw), 2).flatten(2)
    value = F.max_pool2d(self.g(x_bchw), 2).flatten(2)
    weight = F.softmax(query.transpose(1, 2) @ key, -1)
    out = (value @ weight.transpose(1, 2)).unflatten(2, x_bchw.shape[2:])
    return self.gamma * self.o(out) + x_bchw


class GeneratorBlock(nn.Module):
  def __init__(
    self, spec: BigganSpec, inputs: int, outputs: int, condition: int
  ):
    super().__init__()
    self.norm1 = ConditionalNorm(spec, inputs, condition)
    self.conv1 = _normal(nn.Conv2d(inputs, outputs, 3, padding=1), spec)
    self.norm2 = ConditionalNorm(spec, outputs, condition)
    self.conv2 = _normal(nn.Conv2d(outputs, outputs, 3, padding=1), spec)
    self.shortcut = _normal(nn.Conv2d(inputs, outputs, 1), spec)

  def forward(self, x_bchw: Tensor, condition: Tensor) -> Tensor:
    y = F.relu(self.norm1(x_bchw, condition))
    y = self.conv1(F.interpolate(y, scale_factor=2))
    y = self.conv2(F.relu(self.norm2(y, condition)))
    return y + F.interpolate(self.shortcut(x_bchw), scale_factor=2)


class Generator(nn.Module):
  def __init__(self, spec: BigganSpec):
    super().__init__()
    self.spec = spec
    first, *widths = (spec.g_width * m for m in G_WIDTHS[spec.resolution])
    chunk = spec.latent_dim // (len(widths) + 1)
    condition = spec.shared_dim + chunk
    self.shared = nn.Embedding(spec.num_classes, spec.shared_dim)
    nn.init.orthogonal_(self.shared.weight)
    self.linear = _normal(nn.Linear(chunk, 16 * first), spec)
    self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
    before = first
    sides = g_sides(spec.resolution)
    for i, (width, side) in enumerate(zip(widths, sides, strict=True)):
      self.blocks.append(GeneratorBlock(spec, before, width, condition))
      if side in spec.g_attention:
        self.attention[str(i)] = Attention(spec, width)
      before = width
    self.norm = nn.BatchNorm2d(
      before,
      eps=spec.batch_norm_epsilon,
      momentum=1 - spec.batch_norm_momentum,
    )
    self.to_rgb = _normal(
      nn.Conv2d(before, spec.image_channels, 3, padding=1), spec
    )

  def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
    shared = self.shared(labels)
    first, *chunks = latents.chunk(len(self.blocks) + 1, 1)
    x = self.linear(first).unflatten(1, (-1, 4, 4))
    for i, (block, chunk) in enumerate(zip(self.blocks, chunks, strict=True)):
      x = block(x, torch.cat([shared, chunk], 1))
      if str(i) in self.attention:
        x = self.attention[str(i)](x)
    return torch.tanh(self.to_rgb(F.relu(self.norm(x))))


class DiscriminatorBlock(nn.Module):
  def __init__(
    self, spec: BigganSpec, inputs: int, outputs: int, first: bool, down: bool
  ):
    super().__init__()
    self.first, self.down = first, down
    self.conv1 = _normal(nn.Conv2d(inputs, outputs, 3, padding=1), spec)
    self.conv2 = _normal(nn.Conv2d(outputs, outputs, 3, padding=1), spec)
    self.shortcut = None
    if down or inputs != outputs:
      self.shortcut = _normal(nn.Conv2d(inputs, outputs, 1), spec)

  def forward(self, x_bchw: Tensor) -> Tensor:
    y = x_bchw if self.first else F.relu(x_bchw)
    y = self.conv2(F.relu(self.conv1(y)))
    if self.down:
      y, x_bchw = F.avg_pool2d(y, 2), F.avg_pool2d(x_bchw, 2)
    if self.shortcut is not None:
      x_bchw = self.shortcut(x_bchw)
    return y + x_bchw


class Discriminator(nn.Module):
  def __init__(self, spec: BigganSpec):
    super().__init__()
    widths = [spec.d_width * m for m in D_WIDTHS[spec.resolution]]
    self.blocks, self.attention = nn.ModuleList(), nn.ModuleDict()
    before, side = spec.image_channels, spec.resolution
    smallest = 8 if spec.resolution == 32 else 4
    named = d_sides(spec.resolution)
    for i, (width, name) in enumerate(zip(widths, named, strict=True)):
      down = side > smallest
      self.blocks.append(DiscriminatorBlock(spec, before, width, not i, down))
      before, side = width, side // 2 if down else side
      if name in spec.d_attention:
        self.attention[str(i)] = Attention(spec, width)
    self.linear = _normal(nn.Linear(before, 1), spec)
    self.projection = _normal(nn.Embedding(spec.num_classes, before), spec)

  def forward(self, images_bchw: Tensor, labels: Tensor) -> Tensor:
    x = images_bchw
    for i, block in enumerate(self.blocks):
      x = block(x)
      if str(i) in self.attention:
        x = self.attention[str(i)](x)
    features = F.relu(x).sum((2, 3))
    projected = (self.projection(labels) * features).sum(1)
    return self.linear(features)[:, 0] + projected


def _check(spec: RunSpec) -> None:
  model, loss = spec.model, spec.loss
  for name, found, wanted in (
    ("model.name", model.name, "biggan"),
    ("model.hierarchical", getattr(model, "hierarchical", None), True),
    ("model.g_spectral", getattr(model, "g_spectral", None), True),
    ("model.d_wide", getattr(model, "d_wide", None), True),
    # PyTorch's spectral norm tracks one singular value.
    ("model.num_singular_values", model.num_singular_values, 1),
    ("model.bf16_stages", model.bf16_stages, 0),
    ("model.dtype", model.dtype, "float32"),
    ("loss.adversarial", loss.adversarial, "hinge"),
    ("loss.orthogonal", loss.orthogonal, 0),
    ("augment.pipe", spec.augment.pipe, "none"),
  ):
    require(
      found == wanted,
      f"{name}={found!r}: the PyTorch peer knows {wanted!r} only; set that",
    )
  require(
    model.num_classes > 0 and model.shared_dim > 0,
    f"model.num_classes={model.num_classes} and model.shared_dim="
    f"{model.shared_dim}: the PyTorch peer needs a shared class embedding",
  )


class Trainer:
  """G, D, their optimizers and the moving average of G."""

  def __init__(
    self,
    spec: RunSpec,
    memory_format: torch.memory_format = torch.channels_last,
  ):
    _check(spec)
    self.spec, self._format = spec, memory_format
    torch.manual_seed(spec.seed)
    self.g, self.d, self.ema = (
      network.to(memory_format=memory_format)
      for network in (
        Generator(spec.model),
        Discriminator(spec.model),
        Generator(spec.model).requires_grad_(False),
      )
    )
    self.ema.load_state_dict(self.g.state_dict())
    self._optimizers = [
      torch.optim.Adam(
        network.parameters(),
        lr=rate.last,
        betas=(spec.optim.beta1, spec.optim.beta2.last),
        eps=spec.optim.epsilon,
        fused=True,
      )
      for network, rate in (
        (self.g, spec.optim.g_lr),
        (self.d, spec.optim.d_lr),
      )
    ]

  def step(self, batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Updates D once per batch, then G and the average."""
    for images, labels in batches:
      fake_labels = self._labels()
      with torch.no_grad():
        fakes = self.g(self._latents(), fake_labels)
      both = torch.cat([fakes, self._floats(images)])
      fake, real = self.d(both, torch.cat([fake_labels, labels])).chunk(2)
      d_loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
      self._update(1, d_loss)
    labels = self._labels()
    self.d.requires_grad_(False)
    g_loss = -self.d(self.g(self._latents(), labels), labels).mean()
    self._update(0, g_loss)
    self.d.requires_grad_(True)
    self._average()
    return d_loss.item()

  def _latents(self) -> Tensor:
    spec = self.spec
    return torch.randn(spec.global_batch_size, spec.model.latent_dim)

  def _labels(self) -> Tensor:
    spec = self.spec
    return torch.randint(0, spec.model.num_classes, (spec.global_batch_size,))

  def _floats(self, images_bhwc: Tensor) -> Tensor:
    x_bchw = images_bhwc.permute(0, 3, 1, 2).to(torch.float32)
    return (x_bchw / 127.5 - 1).contiguous(memory_format=self._format)

  def _update(self, player: int, loss: Tensor) -> None:
    optimizer = self._optimizers[player]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

  @torch.no_grad()
  def _average(self) -> None:
    old, new = (
      [x for x in n.state_dict().values() if x.is_floating_point()]
      for n in (self.ema, self.g)
    )
    torch._foreach_lerp_(old, new, 1 - self.spec.optim.ema_decay)


def random_batches(spec: RunSpec) -> list[tuple[Tensor, Tensor]]:
  """Returns random images uint8 [B, H, W, C] and labels [B] per D update."""
  model, count = spec.model, spec.global_batch_size
  shape = (count, model.resolution, model.resolution, model.image_channels)
  return [
    (
      torch.randint(0, 256, shape, dtype=torch.uint8),
      torch.randint(0, model.num_classes, (count,)),
    )
    for _ in range(spec.optim.d_steps)
  ]


def make_step(
  run_spec: RunSpec, threads: int = 2, **options: object
) -> Callable[[], float]:
  """Returns a function that runs one training step and returns D's loss.

  Args:
    run_spec: a `BigganSpec` run without augmentation.
    threads: number of PyTorch threads.
    **options: arguments of `Trainer`.
  """
  torch.set_num_threads(threads)
  trainer = Trainer(run_spec, **options)
  batches = random_batches(run_spec)
  return lambda: trainer.step(batches)
