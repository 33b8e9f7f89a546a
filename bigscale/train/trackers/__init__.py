"""Writers of scalars and images for the tools that show them."""
