"""Excerpts of what libtpu 0.0.52 printed, cut down to what matters.

Made with small steps of our own on v5e:4x4; metadata and the other entries of
`backend_config` are left out where nothing reads them.
"""

import pathlib

_FOLDER = pathlib.Path(__file__).parent / "hlo"

# A scan of 2 D updates, in it a scan of 3 microbatches: a matrix product, and
# the all-reduce of gradients after the inner scan. Then a branch.
NESTED_SCANS = (_FOLDER / "nested_scans.hlo").read_text()
# An all-gather that starts in one fusion, goes on beside a matrix product in
# a second and ends in a third.
ASYNC_FUSIONS = (_FOLDER / "async_fusions.hlo").read_text()
# Two slices of 16 chips: a collective between them, a permutation in the
# meantime, and an all-reduce of a tuple.
TWO_SLICES = (_FOLDER / "two_slices.hlo").read_text()
# Products of float32, one of a network and fused, one beside it, and one of
# bfloat16.
FLOAT32_PRODUCTS = (_FOLDER / "float32_products.hlo").read_text()
