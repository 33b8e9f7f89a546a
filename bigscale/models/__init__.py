"""Generators and discriminators, written in flax.linen."""
