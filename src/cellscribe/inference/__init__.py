"""Ranked cells to vectors, and runs from file to file."""
