"""Generators and discriminators; with the metrics' networks, all of flax.linen."""
