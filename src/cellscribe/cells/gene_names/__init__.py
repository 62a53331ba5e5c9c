"""From the names in a file to the genes of a model."""
