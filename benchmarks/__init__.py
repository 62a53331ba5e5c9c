"""Measurements against the ways that are published for the same work, on real cells.

`verbs` measures and writes ``benchmarks/results/NAME.json``; ``scripts/render_tables.py`` renders
README's tables from these files. Ours and the peer run in one process, in turns (A B A B), on the
same cells.
"""
