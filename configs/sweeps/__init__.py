"""Sweeps: base settings of a run, and the settings that vary."""
