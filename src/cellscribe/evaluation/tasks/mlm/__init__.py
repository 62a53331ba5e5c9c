"""Task mlm: predict masked genes."""
