"""Estimates the cost of a run on a TPU slice, without a TPU."""
