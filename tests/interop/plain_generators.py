"""An independent implementation of the official generators in numpy.

It uses the names and shapes that the public conversion scripts read, and no
code of bigscale, so that an error in the importer changes the images.
BigGAN-deep uses pytorch-pretrained-BigGAN's names and axes.
"""

import math

import numpy as np


def normalized(w_io, u, epsilon=1e-4):
  """Divides W [I, O] by the singular value that one step from u [O] finds."""
  v = w_io @ u
  v = v / max(np.linalg.norm(v), epsilon)
  u = v @ w_io
  return w_io / (u @ u / max(np.linalg.norm(u), epsilon))


def conv(x_bhwc, w_hwio):
  """Convolves with zero padding that keeps the resolution."""
  pad = w_hwio.shape[0] // 2
  h, w = x_bhwc.shape[1:3]
  padded = np.pad(x_bhwc, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  return sum(
    padded[:, i : i + h, j : j + w] @ w_hwio[i, j]
    for i in range(w_hwio.shape[0])
    for j in range(w_hwio.shape[1])
  )


def relu(x):
  return np.maximum(x, 0)


def double(x_bhwc):
  return x_bhwc.repeat(2, axis=1).repeat(2, axis=2)


def attention(x_bhwc, theta, phi, g, o, gamma):
  """Applies attention with 1x1 convolutions [I, O]."""
  b, h, w, c = x_bhwc.shape

  def pooled(x):
    x = x.reshape(b, h // 2, 2, w // 2, 2, -1).max(axis=(2, 4))
    return x.reshape(b, h * w // 4, -1)

  query = (x_bhwc @ theta).reshape(b, h * w, -1)
  scores = query @ pooled(x_bhwc @ phi).swapaxes(1, 2)
  weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
  weights = weights / weights.sum(axis=-1, keepdims=True)
  out = weights @ pooled(x_bhwc @ g) @ o
  return x_bhwc + gamma * out.reshape(b, h, w, c)


def tfhub_biggan(variables, latents, labels, blocks, attend_before):
  """Computes BigGAN's images [B, H, W, 3] from its variables."""

  def read(name):
    return variables[f"module/{name}:0"].astype(np.float64)

  def weight(scope):
    w = read(f"{scope}/w/ema_b999900")
    u = read(f"{scope}/u0")[0]
    return normalized(w.reshape(-1, w.shape[-1]), u).reshape(w.shape)

  def biased(x, scope):
    return conv(x, weight(scope)) + read(f"{scope}/b/ema_b999900").reshape(-1)

  def norm(x, scope, number, condition):
    tail = f"_{number}" if number else ""
    stats = f"{scope}/CrossReplicaBN{tail}/accumulated"
    x = (x - read(f"{stats}_mean")) / np.sqrt(read(f"{stats}_var") + 1e-4)
    gain = 1 + condition @ weight(f"{scope}/HyperBN{tail}/gamma")
    bias = condition @ weight(f"{scope}/HyperBN{tail}/beta")
    return x * gain[:, None, None] + bias[:, None, None]

  root = "Generator"
  first, *codes = np.split(latents.astype(np.float64), blocks + 1, axis=1)
  classes = np.eye(read("linear/w/ema_b999900").shape[0])[labels]
  shared = classes @ read("linear/w/ema_b999900")
  scope = f"{root}/G_Z/G_linear"
  x = first @ weight(scope) + read(f"{scope}/b/ema_b999900")
  x = x.reshape(len(labels), 4, 4, -1)
  for i, code in enumerate(codes):
    if i == attend_before:
      theta, phi, g, o = (
        weight(f"{root}/attention/{part}")[0, 0]
        for part in ("theta", "phi", "g", "o_conv")
      )
      gamma = read(f"{root}/attention/gamma/ema_b999900")
      x = attention(x, theta, phi, g, o, gamma)
    scope = f"{root}/GBlock_{i}" if i else f"{root}/GBlock"
    condition = np.concatenate([code, shared], axis=1)
    y = biased(double(relu(norm(x, scope, 0, condition))), f"{scope}/conv0")
    y = biased(relu(norm(y, scope, 1, condition)), f"{scope}/conv1")
    x = y + biased(double(x), f"{scope}/conv_sc")
  scope = f"{root}/ScaledCrossReplicaBN"
  x = x - read(f"{scope}bn/accumulated_mean")
  x = x / np.sqrt(read(f"{scope}bn/accumulated_var") + 1e-4)
  x = x * read(f"{scope}/gamma/ema_b999900")
  x = x + read(f"{scope}/beta/ema_b999900")
  return np.tanh(biased(relu(x), f"{root}/conv_2d"))


def port_row(rows, truncation):
  """Returns pytorch-pretrained-BigGAN's mix of [N, C] rows at a truncation.

  Between two rows, its weights are the wrong way round, as in the other port
  that was made from the official graphs.
  """
  part, start = math.modf(truncation * (len(rows) - 1))
  if part == 0:
    return rows[int(start)]
  return rows[int(start)] * part + rows[int(start) + 1] * (1 - part)


def hf_biggan_deep(tensors, latents, labels, truncation=1.0, depth=2):
  """Computes BigGAN-deep's images [B, H, W, 3] from its state dict."""
  tensors = {name: x.astype(np.float64) for name, x in tensors.items()}

  def weight(scope):
    w = tensors[f"{scope}.weight_orig"]
    u, v = tensors[f"{scope}.weight_u"], tensors[f"{scope}.weight_v"]
    w = w / (u @ w.reshape(len(w), -1) @ v)
    return w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T

  def biased(x, scope):
    return conv(x, weight(scope)) + tensors[f"{scope}.bias"]

  def standard(x, scope):
    mean = port_row(tensors[f"{scope}.running_means"], truncation)
    var = port_row(tensors[f"{scope}.running_vars"], truncation)
    return (x - mean) / np.sqrt(var + 1e-4)

  def norm(x, scope):
    gain = 1 + condition @ weight(f"{scope}.scale")
    bias = condition @ weight(f"{scope}.offset")
    return standard(x, scope) * gain[:, None, None] + bias[:, None, None]

  classes = tensors["embeddings.weight"].T[labels]
  condition = np.concatenate([latents.astype(np.float64), classes], axis=1)
  x = condition @ weight("generator.gen_z") + tensors["generator.gen_z.bias"]
  x = x.reshape(len(labels), 4, 4, -1)
  layers = [name.split(".")[2] for name in tensors if ".layers." in name]
  blocks = 0
  for layer in sorted(set(map(int, layers))):
    scope = f"generator.layers.{layer}"
    if f"{scope}.gamma" in tensors:
      parts = (
        weight(f"{scope}.snconv1x1_{part}")[0, 0]
        for part in ("theta", "phi", "g", "o_conv")
      )
      x = attention(x, *parts, tensors[f"{scope}.gamma"])
      continue
    blocks += 1
    # The last block of a stage doubles the resolution.
    up = blocks % depth == 0
    y = relu(norm(x, f"{scope}.bn_0"))
    y = relu(norm(biased(y, f"{scope}.conv_0"), f"{scope}.bn_1"))
    y = biased(double(y) if up else y, f"{scope}.conv_1")
    y = biased(relu(norm(y, f"{scope}.bn_2")), f"{scope}.conv_2")
    y = biased(relu(norm(y, f"{scope}.bn_3")), f"{scope}.conv_3")
    x = x[..., : y.shape[-1]]
    x = y + (double(x) if up else x)
  x = standard(x, "generator.bn") * tensors["generator.bn.weight"]
  x = relu(x + tensors["generator.bn.bias"])
  return np.tanh(biased(x, "generator.conv_to_rgb")[..., :3])
