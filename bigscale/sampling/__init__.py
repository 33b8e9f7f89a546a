"""Sampling of images from a generator."""
