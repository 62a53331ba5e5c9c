"""Endings of files of cells, and the names that are left without them."""

from __future__ import annotations

CONTAINERS = (".h5ad", ".zarr", ".h5", ".loom", ".h5mu", ".tar.gz", ".tgz")
"""Endings of the sources that are taken from a folder of many; a table may be anything, so it must
be named."""
TABLES = (".csv", ".tsv", ".txt", ".parquet", ".mtx")
PACKED = ("", ".gz", ".bgz", ".bz2", ".xz", ".zst", ".lz4")


def stem(name: str) -> str:
    """Return the name of a source, without folders, without the ending of its format."""
    name = name.rstrip("/").rpartition("/")[2]
    endings = [*CONTAINERS, ".zip", *(table + packed for packed in PACKED for table in TABLES)]
    for ending in endings:
        if name.endswith(ending) and name != ending:
            return name.removesuffix(ending)
    return name
