"""The BERT that reads ranked genes: ours, Geneformer's and BioNeMo's."""
