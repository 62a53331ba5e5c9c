"""How many cells a source has, and how they are stored, told by its header."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cellscribe.cells.layers import resolve_layer
from cellscribe.cells.readers.anndata_files import Header, Source
from cellscribe.cells.readers.detect_format import open_source
from cellscribe.cells.readers.endings import PACKED, TABLES
from cellscribe.cells.readers.matrices import Entries
from cellscribe.cells.readers.multimodal import Wanted
from cellscribe.config import InputOptions

READ_WHOLE = (
    *(".zip", ".tar", ".tar.gz", ".tgz"),
    *(table + packed for table in TABLES if table != ".mtx" for packed in PACKED),
)
"""Endings of what has no header: archives and tables."""


def read_header(path: str | Path, options: InputOptions | None = None) -> Header | None:
    """Read how many cells a source has, and whether they are stored one after the other.

    Of an AnnData this takes its attributes, of other containers also their row pointers or names;
    no count is read, and nothing is converted or unpacked.

    Parameters
    ----------
    path
        As for `open_counts`.
    options
        How the input is read.

    Returns
    -------
    Header or None
        None of an archive or a table, which would have to be read whole.

    Raises
    ------
    InputError
        There is no such file, it is damaged or of no known format, or has no such layer.
    """
    options = options or InputOptions()
    if _is_read_whole(path):
        # that it is there and may be read
        with Path(path).open("rb"):
            return None
    with _opened(path, options) as source:
        return header_of_source(source, options)


def header_of_source(source: Source, options: InputOptions) -> Header:
    """Read the header of an open source.

    Raises
    ------
    InputError
        It is damaged, or has no such layer.
    """
    layer = resolve_layer(options.layer, list(source.matrices), source.name)
    if source.header is not None:
        return source.header(layer)
    matrix = source.matrices[layer]()
    return Header(n_cells=matrix.shape[0], by_rows=not isinstance(matrix, Entries))


def obs_columns(path: str | Path, options: InputOptions | None = None) -> list[str] | None:
    """Read the names of a source's columns of obs; None as for `read_header`.

    Parameters
    ----------
    path, options
        As for `read_header`.

    Raises
    ------
    InputError
        As `read_header`.
    """
    if _is_read_whole(path):
        return None
    with _opened(path, options or InputOptions()) as source:
        return columns_of_source(source)


def columns_of_source(source: Source) -> list[str]:
    """Read the names of the columns of obs of an open source.

    Raises
    ------
    InputError
        It is damaged.
    """
    obs = source.obs() if source.obs_rows is None else source.obs_rows(0, 1)
    return list(map(str, obs.columns))


def _is_read_whole(path: str | Path) -> bool:
    return str(path).lower().endswith(READ_WHOLE) and not Path(path).is_dir()


@contextmanager
def _opened(path: str | Path, options: InputOptions) -> Iterator[Source]:
    with ExitStack() as stack:
        wanted = Wanted(modality=options.modality, table=options.table)
        source = open_source(path, stack, None, lambda line: None, wanted)
        wanted.check(source)
        yield source
