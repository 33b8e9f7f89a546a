"""Scaling of quality with compute: costs of runs, sweeps and fitted laws."""
