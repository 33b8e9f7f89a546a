"""Small specs of all model families and losses."""

import types

from ml_collections import ConfigDict

from bigscale.spec import from_config

# Singular values are tracked in every step, since a trace counts the larger
# branch of a conditional.
BIGGAN = {
  "name": "biggan",
  "resolution": 32,
  "num_classes": 6,
  "latent_dim": 16,
  "g_width": 4,
  "d_width": 4,
  "shared_dim": 8,
  "spectra_interval": 1,
}
ATTENTIVE = BIGGAN | {"g_attention": (16,), "d_attention": (16,)}
DEEP = {
  "name": "biggan_deep",
  "resolution": 64,
  "num_classes": 6,
  "latent_dim": 8,
  "g_width": 4,
  "d_width": 4,
  "shared_dim": 8,
  "g_depth": 1,
  "d_depth": 2,
}
R3GAN = {
  "name": "r3gan",
  "resolution": 8,
  "num_classes": 5,
  "latent_dim": 8,
  "widths": (16, 8),
  "blocks": (1, 2),
  "cardinality": (4, 2),
  "class_embedding_dim": 4,
  "spectra_interval": 1,
}
STRIPPED = {
  "name": "stripped_stylegan2",
  "resolution": 8,
  "num_classes": 3,
  "widths": (16, 8),
  "latent_dim": 8,
  "spectra_interval": 1,
}
HINGE = {"adversarial": "hinge"}
R1 = {"r1_gamma": 1.0}
RPGAN = {"adversarial": "rpgan", "r2_gamma": 1.0} | R1
GP = {"gradient_penalty": 10.0}
PARTS = {"d_steps": 2, "microbatches": 2}


def spec_from(model, loss, optim, **others):
  return from_config(
    ConfigDict(
      {
        "global_batch_size": 8,
        "total_kimg": 1.0,
        "model": model,
        "data": {"source": "emoji"},
        "loss": loss,
        "optim": {"g_lr": 1e-3, "d_lr": 1e-3} | optim,
      }
      | others
    )
  )


def trained_to(step: int) -> types.SimpleNamespace:
  """Returns the part of a training result that a sweep reads."""
  return types.SimpleNamespace(state=types.SimpleNamespace(step=step))
