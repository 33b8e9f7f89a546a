"""Pure JAX functions: no model, no mesh, no state of their own."""
