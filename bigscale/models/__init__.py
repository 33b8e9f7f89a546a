"""Generators and discriminators, written in Flax Linen."""
