"""Cells that come as tokens: files of ``cellscribe tokenize``, and datasets of Hugging Face.

A file of ours says which vocabulary, family and context its tokens are of, and must agree with the
model. A dataset (a folder that ``save_to_disk`` wrote, as Geneformer's tokenizer does) says nothing
of the kind: its tokens are taken as those of the model, if they can be.

`TokenCells` stands where opened counts do, for ``embed`` alone: totals of counts are not known.

Letters: ``B`` cells, ``N`` tokens of all cells together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, log_stderr
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.readers.storage import DAMAGED, reading
from cellscribe.cells.tokens import CellTokens
from cellscribe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from scipy.sparse import csr_matrix

IDS, VALUES, CELL = "input_ids", "values", "cell_id"
STATE, SPLITS = "state.json", "dataset_dict.json"
ABOUT = ("family", "vocabulary_hash", "context", "cls_token")
"""What a file of ours says of its tokens, and the model must say too."""
FORM = "tokens"


def is_tokens(source: Any) -> bool:
    """Whether a path holds tokens; nothing but its metadata is read."""
    if not isinstance(source, str | Path):
        return False
    path = Path(source)
    try:
        if path.is_dir():
            return (path / STATE).is_file() or (path / SPLITS).is_file()
        if path.suffix != ".parquet" or not path.is_file():
            return False
        from pyarrow import parquet

        return IDS in parquet.read_schema(path).names
    # what cannot be read is told by who opens it as counts
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What tokens have to be for a model.

    Attributes
    ----------
    about
        What a file of the model's tokens says: the fields `ABOUT`, as far as the model has them.
    n_tokens, n_special
        Rows of the gene table, and how many at its start are no genes.
    front, back
        Special tokens before and after a cell's.
    context
        Most genes that the model reads; None for a model that reads values with the tokens.
    """

    about: Mapping[str, Any]
    n_tokens: int
    n_special: int = 0
    front: tuple[int, ...] = ()
    back: tuple[int, ...] = ()
    context: int | None


def holds_tokens(counts: Counts) -> bool:
    """Whether opened cells, or what stands for them, are `TokenCells`."""
    return counts.form == FORM


class TokenMap(GeneMap):
    """Genes of cells that come as tokens: those of the model."""

    def summary(self) -> str:
        """Describe the map."""
        return "The cells come as tokens; no gene was looked up."


def token_map(n_genes: int) -> TokenMap:
    """Map of so many genes of a model onto themselves."""
    return TokenMap(
        token=np.arange(n_genes, dtype=np.int32), key=FORM, n_genes=n_genes, n_known=n_genes,
        n_tokens=n_genes, n_ensembl=0, n_symbol=0, n_alias=0, n_duplicates=0, n_other_species=0,
        unknown_examples=(),
    )  # fmt: skip


class TokenCells(Counts):
    """Opened tokens; a context manager. Attributes are those of `Counts`; `var` is empty.

    Parameters
    ----------
    path
        ``.parquet`` file or folder of a dataset.
    expected
        What the model reads.
    log
        Called with a line of text on what cannot be checked.

    Raises
    ------
    InputError
        The file is damaged, or its tokens are another model's.
    """

    def __init__(self, path: Path, expected: Expected, *, log: Log = log_stderr) -> None:
        import pandas as pd

        self.name, self.path, self.form, self.layer, self.log = str(path), path, FORM, FORM, log
        self._expected, self._stack = expected, ExitStack()
        self._table, said = _read_table(path)
        self.n_cells = len(self._table)
        self._check(said)
        self.var, self.n_genes = pd.DataFrame(index=pd.Index([], dtype=object)), 0
        self.kind = said.get("counts", "raw") if said else "raw"

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Cell names and the columns of the dataset."""
        import pyarrow as pa

        plain = [
            field.name
            for field in self._table.schema
            if field.name not in (IDS, VALUES, "length") and not pa.types.is_nested(field.type)
        ]
        with reading(f"{self.name}: columns"):
            columns = self._table.select(plain)
            # Arrow trusts the places that a file says, and would read beyond its end
            columns.validate(full=True)
            obs: pd.DataFrame = columns.to_pandas()
        names = obs.pop(CELL) if CELL in obs else obs.index
        obs.index = names.astype(str).astype(object).rename(None)
        return obs

    def blocks(self, rows: int = 4096, start: int = 0) -> Iterator[csr_matrix]:
        """Refuse: there are no counts."""
        raise InputError(f"{self.name} holds tokens and no counts; embed alone reads them")

    def token_blocks(self, rows: int, start: int = 0) -> Iterator[CellTokens]:
        """Read blocks of tokens from row `start` on, without special tokens.

        Raises
        ------
        InputError
            Tokens are none of the model's, or more than it reads; damaged lists.
        """
        for first in range(start, self.n_cells, rows):
            with reading(self.name):
                part = self._table.slice(first, rows)
            offsets, tokens = _lists(part, IDS, self.name)
            self._check_tokens(tokens, offsets, first)
            values = None
            if self._expected.context is None:
                same, found = _lists(part, VALUES, self.name)
                if not np.array_equal(same, offsets) or not np.isfinite(found).all():
                    raise InputError(f"{self.name}: values do not fit the tokens; {DAMAGED}")
                values = found.astype(np.float32)
            yield self._without_specials(tokens.astype(np.uint16), offsets, values, first)

    def _check(self, said: Mapping[str, Any] | None) -> None:
        if not self.n_cells:
            raise InputError(f"{self.name} holds no cells; give a file that has some")
        about = self._expected.about
        if self._expected.context is None and VALUES not in self._table.column_names:
            raise InputError(
                f"{self.name}: tokens without values, which the model reads too; write them with "
                "cellscribe tokenize and this model"
            )
        if said is None:
            self.log(
                f"{self.name}: the dataset does not say whose tokens it holds; they are taken as "
                "those of the model"
            )
            return
        for key in ABOUT:
            if key in about and said.get(key) != about[key]:
                raise InputError(
                    f"{self.name}: tokens of another model ({key.replace('_', ' ')} "
                    f"{said.get(key)!r}, and the model's is {about[key]!r}); name that model, or "
                    "embed the counts"
                )

    def _check_tokens(self, tokens: Any, offsets: npt.NDArray[np.int64], first: int) -> None:
        if tokens.dtype.kind not in "iu":
            raise InputError(f"{self.name}: {IDS} hold {tokens.dtype}, not whole numbers")
        bad = (tokens < 0) | (tokens >= self._expected.n_tokens)
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            row = first + int(np.searchsorted(offsets, at, side="right")) - 1
            raise InputError(
                f"{self.name}: token {tokens[at]} in cell {row}, counted from 0, and the model's "
                f"vocabulary ends at {self._expected.n_tokens - 1}; name the model that the tokens "
                "are of, or embed the counts"
            )

    def _without_specials(
        self,
        tokens: npt.NDArray[np.uint16],
        offsets: npt.NDArray[np.int64],
        values: npt.NDArray[np.float32] | None,
        first: int,
    ) -> CellTokens:
        """Take the special tokens off, which a cell has as the model has them, or not at all."""
        special = tokens < self._expected.n_special
        if special.any():
            wrong = special & ~self._around(tokens, offsets)
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0])
                row = first + int(np.searchsorted(offsets, at, side="right")) - 1
                raise InputError(
                    f"{self.name}: token {tokens[at]} among the genes of cell {row}, counted from "
                    "0, is a special token of the model; name the model that the tokens are of"
                )
            offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(~special)])[offsets]
            tokens = tokens[~special]
        lengths, most = np.diff(offsets), self._expected.context
        if most is not None and (longest := int(lengths.max(initial=0))) > most:
            raise InputError(
                f"{self.name}: a cell of {longest:,} genes, and the model reads {most:,}; name the "
                "model that the tokens are of, or embed the counts"
            )
        unknown = np.zeros(len(lengths), dtype=np.int64)
        return CellTokens(
            tokens=tokens,
            offsets=offsets,
            values=values,
            umis=unknown,
            umis_known=unknown,
            genes=lengths.astype(np.int32),
            genes_known=lengths.astype(np.int32),
        )

    def _around(
        self, tokens: npt.NDArray[np.uint16], offsets: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Mark the special tokens that stand where the model has them: ``[N]``."""
        front, back = self._expected.front, self._expected.back
        filled = np.diff(offsets) >= len(front) + len(back)
        starts, ends = offsets[:-1][filled], offsets[1:][filled] - len(back)
        found = np.zeros(len(tokens), dtype=bool)
        for begin, specials in ((starts, front), (ends, back)):
            for place, token in enumerate(specials):
                at = begin + place
                found[at[tokens[at] == token]] = True
        return found


class _ParquetTable:
    """A Parquet file that is read by row groups, with what is used here of ``pyarrow.Table``."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._file = parquet.ParquetFile(path)
        self.schema: pa.Schema = self._file.schema_arrow
        self.column_names: list[str] = self.schema.names
        about = self._file.metadata
        sizes = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        self._last: tuple[tuple[int, ...], pa.Table] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def select(self, columns: list[str]) -> pa.Table:
        """Read some columns."""
        return self._file.read(columns)

    def slice(self, first: int, rows: int) -> pa.Table:
        """Read the tokens of some rows; row groups are kept until others are read."""
        stop = min(first + rows, len(self))
        low, high = np.searchsorted(self._starts, [first, stop - 1], side="right") - 1
        groups = tuple(range(int(low), int(high) + 1))
        if self._last is None or self._last[0] != groups:
            columns = [name for name in (IDS, VALUES) if name in self.column_names]
            self._last = groups, self._file.read_row_groups(list(groups), columns)
        return self._last[1].slice(first - int(self._starts[low]), stop - first)


def _read_table(path: Path) -> tuple[Any, dict[str, Any] | None]:
    """Open the table, by row groups or mapped to memory, and what it says of its tokens."""
    import pyarrow as pa

    with reading(str(path)):
        if path.is_dir():
            table, about = pa.concat_tables([*map(_arrow_table, _arrow_files(path))]), None
        else:
            table = _ParquetTable(path)
            about = (table.schema.metadata or {}).get(b"cellscribe")
        said = None if about is None else json.loads(about)
    if IDS not in table.column_names:
        raise InputError(f"{path} has no column {IDS!r}, and so no tokens; give a dataset with it")
    if said is not None and not isinstance(said, dict):
        raise InputError(f"{path}: what it says of its tokens is no mapping; {DAMAGED}")
    return table, said


def _arrow_files(folder: Path) -> list[Path]:
    """Files of a dataset, in their order."""
    if (folder / SPLITS).is_file():
        splits = json.loads((folder / SPLITS).read_text(encoding="utf-8"))["splits"]
        if len(splits) != 1:
            named = ", ".join(str(folder / Path(str(split)).name) for split in splits)
            raise InputError(f"{folder}: several splits; give one of {named}")
        folder = folder / Path(str(splits[0])).name
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise InputError(
            f"{folder}: a selection of another dataset's rows; write it with flatten_indices()"
        )
    # a name alone: no file outside the folder is opened
    return [folder / Path(str(file["filename"])).name for file in state["_data_files"]]


def _arrow_table(path: Path) -> pa.Table:
    import pyarrow as pa

    file = pa.memory_map(str(path))
    if file.read(6) == b"ARROW1":
        return pa.ipc.open_file(file).read_all()
    file.seek(0)
    return pa.ipc.open_stream(file).read_all()


def _lists(table: pa.Table, column: str, name: str) -> tuple[npt.NDArray[np.int64], Any]:
    """Offsets and values of a column of lists.

    Raises
    ------
    InputError
        It holds something else, or a list is missing.
    """
    import pyarrow as pa

    with reading(f"{name}: {column}"):
        chunks = table.column(column)
        # Arrow trusts the places that a file says, and would read beyond its end
        chunks.validate(full=True)
        kinds = (pa.types.is_list, pa.types.is_large_list)
        if not any(is_kind(chunks.type) for is_kind in kinds) or chunks.null_count:
            raise InputError(
                f"{name}: column {column!r} is no column of lists, or some are missing; {DAMAGED}"
            )
        part = pa.concat_arrays(chunks.chunks)
    values = part.flatten()
    if values.null_count or not (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type)
    ):
        raise InputError(
            f"{name}: column {column!r} holds no numbers, or some are missing; {DAMAGED}"
        )
    offsets = part.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], values.to_numpy(zero_copy_only=False)
