"""Geneformer: its checkpoints and gene dictionaries, read and written."""
