"""Import of weights from other implementations, and export."""
