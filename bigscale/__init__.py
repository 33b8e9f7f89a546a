"""bigscale: large-batch GAN scaling experiments on TPU pods."""

__version__ = "0.1.0"
