"""Matrix Market files with the tables of genes and cells next to them, tar'd or not.

They are genes x cells by columns, or cells x genes, which the sizes of the tables tell.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pandas as pd

from cellscribe.callbacks import Log
from cellscribe.cells.convert import scratch_folder
from cellscribe.cells.features import genes_only
from cellscribe.cells.formats import Source, names, tidy
from cellscribe.cells.matrices import DAMAGED, SAMPLE, Array, Entries, check_indices
from cellscribe.errors import InputError

MTX_NAMES = ("matrix.mtx", "features.tsv", "genes.tsv", "barcodes.tsv")
READ_BYTES = 16 << 20
"""Text parsed at a time."""


def unpack(path: Path, stack: ExitStack, scratch: Path | None) -> Path:
    """Unpack the Matrix Market files of a tar archive into a scratch folder.

    Only regular files of the known names are taken, and written under those names alone, so an
    archive cannot reach outside the folder.

    Raises
    ------
    InputError
        The archive is damaged, or holds no such folder, or several.
    """
    folder = scratch_folder(stack, scratch)
    found: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for item in archive:
                inside = PurePosixPath(item.name)
                if not (item.isfile() and inside.name.removesuffix(".gz") in MTX_NAMES):
                    continue
                place = found.setdefault(str(inside.parent), len(found))
                (folder / str(place)).mkdir(exist_ok=True)
                reader = archive.extractfile(item)
                if reader is not None:
                    with reader, (folder / str(place) / inside.name).open("wb") as out:
                        shutil.copyfileobj(reader, out, 1 << 20)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the archive cannot be read ({error}); {DAMAGED}") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be unpacked under {folder.parent} ({error.strerror or error}); "
            "set TMPDIR to a folder with room"
        ) from error
    if len(found) != 1:
        several = f"several matrices ({', '.join(found)})" if found else "no matrix.mtx"
        raise InputError(f"{path} holds {several}; unpack it and give one folder with a matrix.mtx")
    return folder / "0"


def mtx_folder(folder: Path, *, name: str, path: Path, log: Log) -> Source:
    """Open a folder with matrix.mtx, genes.tsv or features.tsv, and barcodes.tsv, each maybe .gz.

    File names may share a prefix, as in GEO's downloads.
    """
    matrix = mtx_in(folder)
    if matrix is None:
        raise InputError(
            f"{name}: no matrix.mtx or matrix.mtx.gz in it; give the folder that has it"
        )
    prefix = matrix.name.removesuffix(".gz").removesuffix("matrix.mtx")
    var = _feature_table(_companion(folder, prefix, ("features.tsv", "genes.tsv"), name))
    barcodes = _table(_companion(folder, prefix, ("barcodes.tsv",), name))
    where = f"{name}: X"
    genes_by_cells, n_entries, is_integer = _header(matrix)
    found = (len(var), len(barcodes))
    swapped = genes_by_cells != found and genes_by_cells == found[::-1]
    if genes_by_cells != found and not swapped:
        raise InputError(
            f"{matrix}: {genes_by_cells[0]:,} x {genes_by_cells[1]:,}, but {len(var):,} features "
            f"and {len(barcodes):,} barcodes are named beside it; use files of one run"
        )
    dtype = np.dtype(np.int64 if is_integer else np.float64)

    def chunks(with_values: bool) -> Iterator[tuple[Array, Array, Array]]:
        for first, second, values in _triplets(matrix, n_entries, dtype):
            genes, cells = (second, first) if swapped else (first, second)
            yield (
                check_indices(cells, found[1], where),
                check_indices(genes, found[0], where),
                values,
            )

    def sample() -> Array:
        return next(iter(_triplets(matrix, n_entries, dtype)))[2][:SAMPLE]

    entries = Entries(
        shape=(found[1], found[0]),
        n_entries=n_entries,
        dtype=dtype,
        where=where,
        chunks=chunks,
        sample=sample,
    )
    return Source(
        name=name,
        path=path,
        form="10x-mtx",
        matrices={"X": lambda: entries},
        var=lambda layer: var,
        obs=lambda: pd.DataFrame(index=names(barcodes[0])),
        keep=genes_only(var, name, log),
    )


def mtx_in(folder: Path) -> Path | None:
    """Find the one Matrix Market file of a folder.

    Raises
    ------
    InputError
        There are several.
    """
    found = [p for p in sorted(folder.glob("*matrix.mtx*")) if p.name.endswith((".mtx", ".mtx.gz"))]
    if len(found) > 1:
        raise InputError(
            f"{folder}: several matrices ({', '.join(p.name for p in found)}); "
            "put each into a folder of its own"
        )
    return found[0] if found else None


def _companion(folder: Path, prefix: str, kinds: tuple[str, ...], name: str) -> Path:
    for kind in kinds:
        for suffix in ("", ".gz"):
            if (folder / f"{prefix}{kind}{suffix}").is_file():
                return folder / f"{prefix}{kind}{suffix}"
    raise InputError(
        f"{name}: no {prefix}{kinds[0]} or {prefix}{kinds[0]}.gz; put it beside matrix.mtx"
    )


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]


def _table(path: Path) -> pd.DataFrame:
    try:
        with _opened(path) as file:
            lines = file.read().decode("utf-8").splitlines()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    return pd.DataFrame([line.split("\t") for line in lines])


def _feature_table(path: Path) -> pd.DataFrame:
    table = _table(path)
    columns = ["gene_ids", "name", "feature_types"][: table.shape[1]]
    frame = table.iloc[:, : len(columns)].set_axis(columns, axis=1)
    frame.index = names(frame["name" if "name" in frame else "gene_ids"])
    return tidy(frame.drop(columns="name", errors="ignore"))


def _header(path: Path) -> tuple[tuple[int, int], int, bool]:
    """Read the shape as written, the number of entries, and whether values are integers."""
    try:
        with _opened(path) as file:
            words, sizes = _head_lines(file)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    right = words[:3] == [b"%%matrixmarket", b"matrix", b"coordinate"] and len(sizes) == 3
    if not right or words[3:] not in ([b"integer", b"general"], [b"real", b"general"]):
        raise InputError(
            f"{path} is not a Matrix Market file of counts; its first line must be "
            "'%%MatrixMarket matrix coordinate integer general'"
        )
    n_rows, n_columns, n_entries = sizes
    return (n_rows, n_columns), n_entries, words[3] == b"integer"


def _head_lines(file: IO[bytes]) -> tuple[list[bytes], list[int]]:
    """Leave the file at the first entry."""
    words = file.readline(1024).lower().split()
    line = file.readline(1 << 16)
    while line.startswith(b"%") or line.isspace():
        line = file.readline(1 << 16)
    fields = line.split()
    return words, [int(field) for field in fields] if all(f.isdigit() for f in fields) else []


def _triplets(
    path: Path, n_entries: int, dtype: np.dtype[Any]
) -> Iterator[tuple[Array, Array, Array]]:
    """Parse the entries in chunks: row, column (both from 0), value."""
    import pyarrow as pa
    from pyarrow import csv

    if not n_entries:
        return
    value = pa.int64() if dtype.kind == "i" else pa.float64()
    types = {"row": pa.int64(), "column": pa.int64(), "value": value}
    done = 0
    try:
        with _opened(path) as file:
            _head_lines(file)
            reader = csv.open_csv(
                file,
                read_options=csv.ReadOptions(column_names=list(types), block_size=READ_BYTES),
                parse_options=csv.ParseOptions(delimiter=" "),
                convert_options=csv.ConvertOptions(column_types=types, null_values=[]),
            )
            for batch in reader:
                done += len(batch)
                row, column, values = (part.to_numpy(zero_copy_only=False) for part in batch)
                yield row - 1, column - 1, values
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read ({error}); {DAMAGED}") from error
    if done != n_entries:
        raise InputError(f"{path}: {done:,} entries, but its header says {n_entries:,}; {DAMAGED}")
