"""Readers of the formats that cells come in: each gives rows of counts, genes and cells."""
