"""Streams of images, each a pure function of the seed and the record index."""
