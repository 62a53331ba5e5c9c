"""BioNeMo's Geneformer: its archives and distributed checkpoints."""
