"""Training: state, step, loop and checkpoints."""
