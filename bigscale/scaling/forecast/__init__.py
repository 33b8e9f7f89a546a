"""Forecasts of a score beyond the runs of a table."""
