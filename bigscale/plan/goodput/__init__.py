"""Forecasts the goodput of a run on a large machine by simulation."""
