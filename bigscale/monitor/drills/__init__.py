"""Drills: short real training runs with injected faults."""
