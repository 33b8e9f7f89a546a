"""Pure JAX functions that depend on no model, mesh or state."""
