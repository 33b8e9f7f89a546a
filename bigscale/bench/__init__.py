"""Benchmarks of a run's step, data and compiler options on local devices."""
