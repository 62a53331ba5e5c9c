"""Masked-gene training."""
