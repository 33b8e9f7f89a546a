"""Draws images: python run_exported.py FILE OUT.png [NUMBER] (jax, pillow)."""

import json
import sys

import numpy as np
from jax import export, random
from PIL import Image

path, out, *rest = sys.argv[1:]
number = int(rest[0]) if rest else 16
with open(path, "rb") as file, open(path + ".json") as header_file:
  generator = export.deserialize(bytearray(file.read()))
  header = json.load(header_file)
law, dim = header["latents"], header["latent_dim"]
end = law["bound"] or np.inf
latents = random.truncated_normal(random.key(0), -end, end, (number, dim))
labels = np.arange(number, dtype=np.int32) % max(header["num_classes"], 1)
images = np.asarray(generator.call(latents * law["scale"], labels))
Image.fromarray(np.concatenate(list(images), axis=1).squeeze()).save(out)
