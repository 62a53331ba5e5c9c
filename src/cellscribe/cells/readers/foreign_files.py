"""What is not read: what it is, and the way to a file that is."""

from __future__ import annotations

import re
from pathlib import Path

from cellscribe.cells.readers.storage import DAMAGED
from cellscribe.cells.readers.text_files import compression, first_text, plain_name, shown

FORMATS = (
    "h5ad, zarr, 10x .h5, Matrix Market (a folder, .mtx, .tar.gz or .zip), csv/tsv, parquet, loom"
)
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/{1,2})(?=[^/])")
SCHEMES = {"s3", "gs", "gcs", "https", "http", "ftp", "az", "abfs", "hf", "file", "drs", "synapse"}
R_FORMATS = (".rds", ".rdata", ".rda", ".robj", ".qs", ".qs2")
_SAVED_BY_R = (b"X\n\0\0\0", b"A\n2\n", b"A\n3\n", b"RDX", b"RDA")
CONVERT = (
    "an R file, which only R can read; in R: `x <- {read}; "
    "anndataR::write_h5ad(x, 'cells.h5ad', x_mapping = 'counts')` writes a Seurat or "
    "SingleCellExperiment object as .h5ad (`zellkonverter::writeH5AD(x, 'cells.h5ad')` the latter)"
)
H5SEURAT = (
    "an h5Seurat file; in R: `SeuratDisk::Convert('{name}', dest = 'h5ad')` writes the .h5ad, "
    "whose raw counts are --layer raw"
)
OTHERS = {
    b"Rar!": "a rar archive; unpack it and give what is in it",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it and give what is in it",
    b"%PDF": "a PDF",
    b"<!DOC": "a web page, maybe of a download that failed; download the file again",
    b"<html": "a web page, maybe of a download that failed; download the file again",
    b"\x93NUMPY": "a NumPy array without names of genes; write .h5ad with anndata",
    b"\xd0\xcf\x11\xe0": "an Excel file; save it as CSV",
    b"version https://git-lfs": "a pointer of Git LFS and not the file; run `git lfs pull`",
}


def is_remote_store(given: str) -> bool:
    """Tell the URL of a zarr store in a bucket, which is read in place."""
    return "://" in given and given.rstrip("/").endswith(".zarr")


def refuse_url(given: str) -> str | None:
    """Say that a source is a URL; None if it is none.

    A path object has lost one of the slashes by the time that it comes here.
    """
    found = _URL.match(given)
    if found is None or not (found[1].lower() in SCHEMES or found[2] == "//"):
        return None
    url = given if found[2] == "//" else f"{found[1]}://{given[found.end() :]}"
    return (
        f"{shown(url, 300)}: a URL; download it first, as only embed and tokenize fetch files "
        "themselves"
    )


def recognise(path: Path, head: bytes) -> str | None:
    """Say what a file of another kind is, and what to do with it; None if it may be text.

    Parameters
    ----------
    head
        Its first bytes.
    """
    name = plain_name(path)
    if not head:
        return "the file is empty"
    inside = first_text(path)
    if name.endswith(R_FORMATS) or inside.startswith(_SAVED_BY_R):
        return _from_r(path, name)
    for start, what in OTHERS.items():
        if inside.startswith(start):
            return what
    if inside.startswith(b"\x89HDF"):
        kind = compression(head)
        how = "gunzip it" if kind == "gzip" else "decompress it"
        return f"an HDF5 file that is {kind}-compressed as a whole; {how}, and give the file"
    if path.suffix in (".h5ad", ".h5", ".loom", ".hdf5", ".h5mu", ".h5seurat"):
        return f"not an HDF5 file, though named {path.suffix}; {DAMAGED}"
    return None


def guess(head: bytes) -> str:
    """Say what a file that is no text of counts may be."""
    if kind := compression(head):
        return f"{kind}-compressed, but neither a tar archive nor a table of counts; check it"
    return (
        f"not a file of cells that cellscribe knows; write it as .h5ad with anndata (known are "
        f"{FORMATS})"
    )


def _from_r(path: Path, name: str) -> str:
    file = shown(path.name)
    if name.endswith((".qs", ".qs2")):
        package = "qs2::qs_read" if name.endswith(".qs2") else "qs::qread"
        return CONVERT.format(read=f"{package}('{file}')")
    if name.endswith((".rdata", ".rda", ".robj")):
        return CONVERT.format(read=f"get(load('{file}')[1])")
    return CONVERT.format(read=f"readRDS('{file}')")
