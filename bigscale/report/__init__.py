"""A run's folder as one HTML page."""
