"""Genes perturbed in silico, and how far cells move."""
