"""Weights of other implementations, as ours."""
