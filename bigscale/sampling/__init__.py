"""Images from a generator."""
