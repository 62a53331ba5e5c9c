"""Measurements against the ways that are published for the same work, on real cells.

``python -m benchmarks NAME`` measures and writes ``benchmarks/results/NAME.json``; `render_tables`
renders README's tables from these files. Ours and the peer run in turns (A B A B), on the same
cells. Nothing here is part of the installed package.
"""
