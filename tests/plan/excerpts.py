"""Shortened excerpts of HLO text that libtpu 0.0.52 printed.

They come from small steps on v5e:4x4. Unused metadata and `backend_config`
entries are removed.
"""

import pathlib

_FOLDER = pathlib.Path(__file__).parent / "hlo"

# A scan of 2 D updates that contains a scan of 3 microbatches. The inner scan
# has a matrix product, and an all-reduce of gradients follows it. A conditional
# follows the outer scan.
NESTED_SCANS = (_FOLDER / "nested_scans.hlo").read_text()
# An all-gather that starts in one fusion, overlaps with a matrix product in a
# second one, and ends in a third one.
ASYNC_FUSIONS = (_FOLDER / "async_fusions.hlo").read_text()
# Two slices of 16 chips: a collective between them, a permutation at the same
# time, and an all-reduce of a tuple.
TWO_SLICES = (_FOLDER / "two_slices.hlo").read_text()
# Two float32 products, a fused one of a network and one elsewhere, and a
# bfloat16 product.
FLOAT32_PRODUCTS = (_FOLDER / "float32_products.hlo").read_text()
