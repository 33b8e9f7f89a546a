"""Compares batches, samples and weights with a fixed set of real images.

A GAN follows its data, so scalars of the game stay normal when the data go bad.
These comparisons use a fixed reference instead of the run's own past. Chance is
known before the run begins, so the first comparison counts.
"""
