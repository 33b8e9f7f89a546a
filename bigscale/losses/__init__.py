"""Logits to scalars."""
