"""The field's published models: one file a family for how it reads, computes and is stored."""
