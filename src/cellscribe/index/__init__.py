"""Labelled cells kept as an index: built once, grown file by file, searched by new cells."""
