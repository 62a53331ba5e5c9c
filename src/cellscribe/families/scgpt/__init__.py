"""scGPT: binned expression."""
