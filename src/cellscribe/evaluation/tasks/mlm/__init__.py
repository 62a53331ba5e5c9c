"""Task mlm: name masked genes."""
