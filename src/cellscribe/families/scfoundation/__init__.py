"""scFoundation: continuous expression values, with read depths."""
