"""Meshes, shardings and multiple processes."""
