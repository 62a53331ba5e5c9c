"""Writes the cells of a source as a part of an index: vectors, and a table of names and columns.

All that can be refused without a model's work (columns, labels, groups) is refused before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cellscribe.callbacks import Progress, in_step
from cellscribe.cells.columns import text_column
from cellscribe.config import AddOptions, IndexOptions
from cellscribe.errors import InputError
from cellscribe.index.store import (
    CELL_HASH,
    CELL_ID,
    OWN,
    SOURCE,
    VECTOR_HASH,
    Header,
    Index,
    Part,
    describe,
    next_number,
)
from cellscribe.index.vectors import Block, Opened, Reference, hash_rows, open_reference
from cellscribe.index.votes import check_groups, keep_labels
from cellscribe.inference.finite import check_float16
from cellscribe.inference.resume import npy_header
from cellscribe.inference.session import Session
from cellscribe.writing import writing

EMPTY = "no count on a gene that the model knows"
SAME = "the same as an earlier cell"


def write_parts(
    references: Sequence[Reference],
    session: Session,
    folder: Path,
    header: Header,
    options: IndexOptions | AddOptions,
    progress: Progress | None,
) -> list[Part]:
    """Write all cells of some sources.

    Parameters
    ----------
    references
        From `find_references`.
    session
        The model.
    folder, header
        The index; its header is not changed.
    options
        Where finished vectors are, and whether cells may be there twice.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        A source cannot be read, lacks a column, or has no cell that is kept.
    """
    _check_columns(references, session, Index(folder, header), options)
    seen = Seen(Index(folder, header), deduplicate=options.deduplicate)
    parts = []
    for number, reference in enumerate(references, 1):
        step = in_step(progress, f"Source {number} of {len(references)}: {reference.name}")
        with open_reference(
            reference, session, header["model"], use_rep=options.use_rep, progress=step
        ) as opened:
            part = _write_part(reference, opened, folder, header, seen)
        for why, n in part["left_out"].items():
            session.log(f"{reference.name}: {n:,} cells are left out ({why}).")
        parts.append(part)
    return parts


def _check_columns(
    references: Sequence[Reference],
    session: Session,
    index: Index,
    options: IndexOptions | AddOptions,
) -> None:
    """Refuse sources that lack a column, and labels that nothing can be learnt of, before the work.

    Raises
    ------
    InputError
        See `_table_of`, `votes.keep_labels` and `votes.check_groups`.
    """
    header, tables = index.header, []
    for reference in references:
        with open_reference(reference, session, header["model"], use_rep=options.use_rep) as opened:
            tables.append(_table_of(opened, header))
    if header["parts"]:
        return
    whole = pd.concat(tables)
    for name in header["labels"]:
        values, numbers = np.unique(whole[name].astype(str), return_counts=True)
        keep_labels(values.tolist(), numbers, name, header["settings"]["min_cells"], index.folder)
    if header["group"]:
        check_groups(whole[header["group"]].unique().tolist(), header["group"], index.folder)


class Seen:
    """Hashes of the cells of an index; tells which of a block are new."""

    def __init__(self, index: Index, *, deduplicate: bool) -> None:
        self.active = deduplicate
        self._known: dict[str, set[int]] = {CELL_HASH: set(), VECTOR_HASH: set()}
        if deduplicate and index.header["parts"]:
            for name, known in self._known.items():
                known.update(index.column(name).drop_null().to_pylist())

    def new(self, hashes: dict[str, Any]) -> npt.NDArray[np.bool_]:
        """Which cells of a block are the first of their kind, ``[B]``."""
        n_cells = len(hashes[VECTOR_HASH])
        found = np.ones(n_cells, bool)
        if not self.active:
            return found
        for row in range(n_cells):
            for name, known in self._known.items():
                if hashes[name] is None:
                    continue
                value = int(hashes[name][row])
                found[row] &= value not in known
                known.add(value)
        return found


def _write_part(
    reference: Reference, opened: Opened, folder: Path, header: Header, seen: Seen
) -> Part:
    """Write the vectors of a source and the table of its cells."""
    number, width = next_number(folder), header["model"]["width"]
    table = _table_of(opened, header)
    dtype = np.dtype(header["settings"]["dtype"]).newbyteorder("<")
    kept: list[pd.DataFrame] = []
    left_out = {EMPTY: 0, SAME: 0}
    done = 0
    path = folder / f"vectors-{number:05}.npy"
    with writing(path) as partial, partial.open("wb") as file:
        file.write(npy_header((0, width), dtype))
        for block in opened.blocks:
            filled = np.asarray(block.vectors.any(axis=1))
            _check_vectors(block, opened.name, done, dtype)
            vectors = np.ascontiguousarray(block.vectors, dtype)
            hashes = {CELL_HASH: block.hashes, VECTOR_HASH: hash_rows(vectors)}
            new = filled.copy()
            rows = np.flatnonzero(filled)
            new[rows] = seen.new(
                {name: None if each is None else each[rows] for name, each in hashes.items()}
            )
            left_out[EMPTY] += int((~filled).sum())
            left_out[SAME] += int((filled & ~new).sum())
            file.write(vectors[new].tobytes())
            part = table.iloc[done : done + len(vectors)][new]
            kept.append(part.assign(**{name: _masked(each, new) for name, each in hashes.items()}))
            done += len(vectors)
        cells = pd.concat(kept, ignore_index=True)
        file.seek(0)
        file.write(npy_header((len(cells), width), dtype))
    if not len(cells):
        raise InputError(
            f"{opened.name}: none of its cells is kept ({EMPTY}: {left_out[EMPTY]:,}, {SAME}: "
            f"{left_out[SAME]:,}); leave it out"
        )
    cells_path = folder / f"cells-{number:05}.parquet"
    with writing(cells_path) as partial:
        cells.to_parquet(partial, index=False)
    return {
        "name": reference.name,
        "hash": reference.hash,
        "cells": len(cells),
        "left_out": {why: n for why, n in left_out.items() if n},
        "vectors": describe(path),
        "table": describe(cells_path),
    }


def _masked(hashes: Any, rows: Any) -> Any:
    if hashes is None:
        return pd.array([None] * int(rows.sum()), dtype="UInt64")
    return pd.array(hashes[rows], dtype="UInt64")


def _check_vectors(block: Block, name: str, first: int, dtype: np.dtype[Any]) -> None:
    if not np.isfinite(block.vectors).all():
        raise InputError(f"{name}: vectors from cell {first:,} on are not finite; embed it again")
    if dtype.itemsize == 2:
        check_float16(block.vectors, first)


def _table_of(opened: Opened, header: Header) -> pd.DataFrame:
    """Columns that an index keeps of a source's obs, as texts."""
    found: dict[str, Any] = {CELL_ID: [str(name) for name in opened.obs.index]}
    wanted = dict.fromkeys(header["labels"], "--label")
    wanted |= dict.fromkeys(header["obs"], "--obs")
    if header["group"]:
        wanted.setdefault(header["group"], "--group")
    for name, flag in wanted.items():
        if name in (*OWN, SOURCE):
            raise InputError(f"{name!r} is a column of the index itself ({flag}); name another")
        found[name] = text_column(opened.obs, name, flag, opened.name)
    return pd.DataFrame(found)
