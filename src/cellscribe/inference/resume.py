"""The state of an embedding run, on disk next to its output.

``OUT.partial/`` holds ``vectors.npy`` (the finished rows, appended), ``cells.bin`` (what each cell
held, see `CELL`), ``blocks.bin`` (a hash of each block's counts and one of what was made of them,
see `BLOCK_RECORD`) and ``state.json`` (what is being made of what, and how many rows are safe). A
run that is killed at any moment goes on from there, and since blocks always begin at the same rows,
with the same bytes as if nothing had happened.

The identity of a run holds all that can change its vectors: weights, configuration, gene table and
version of the model, every option of reading and pooling, precision, and the input. A run with
another identity is refused, and so are rows that are not what was written. If the files of the
input have other sizes or times, the blocks that are done are read again and compared
(`check_input`), so that rows of two inputs are never joined.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import OutputDtype
from cellscribe.errors import InputError
from cellscribe.inference.finite import check_float16
from cellscribe.inference.inputs import DIGEST, hash_block, hash_of_blocks, read_blocks
from cellscribe.writing import disk_errors, remove

CELL = np.dtype(
    [
        ("umis", "<i8"),
        ("umis_known", "<i8"),
        ("genes", "<i4"),
        ("genes_known", "<i4"),
        ("tokens", "<i4"),
    ]
)
"""One cell: UMIs and detected genes, in all and known; genes that the model read."""
BLOCK_RECORD = np.dtype(
    [("rows", "<i4"), ("counts", "V16"), ("made", "V16")]  # digests of `inputs.DIGEST` bytes
)
"""One block: its cells, a hash of their counts, and one of their vectors and facts."""
STATE = "state.json"
FILES = frozenset({"vectors.npy", "cells.bin", "blocks.bin", STATE, f"{STATE}.new"})
"""Files of the folder; besides there may be an output that is not finished, ``out.*``."""
LARGEST_STATE = 1 << 20
GO_ON = "free some space and go on with the same command and --resume"


class Partial:
    """The folder of an unfinished run; `close` or `discard` it.

    Attributes
    ----------
    folder
        ``OUT.partial``.
    done
        Rows that are safely on disk.
    fresh
        Whether none were when the run began.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int],
        dtype: OutputDtype,
        identity: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.folder = partial_folder(out)
        self.shape, self.dtype = shape, np.dtype(dtype).newbyteorder("<")
        self.identity = json.loads(json.dumps(identity))
        self.done = self.n_blocks = 0
        self.files = ""
        self.fresh = True
        self._header = npy_header(shape, self.dtype)
        if os.path.lexists(self.folder):
            self._go_on(resume, overwrite)
        self._files = ExitStack()
        try:
            with disk_errors(self.folder):
                self.folder.mkdir(exist_ok=True)
                self._vectors = self._open("vectors.npy", len(self._header) + self.done * self._row)
                self._cells = self._open("cells.bin", self.done * CELL.itemsize)
                self._blocks = self._open("blocks.bin", self.n_blocks * BLOCK_RECORD.itemsize)
                if self.done:
                    self._check_rows()
                else:
                    self._vectors.write(self._header)
                    self._vectors.flush()
                self._write_state()
        except InputError:
            (self.close if self.done else self.discard)()
            raise

    def _go_on(self, resume: bool, overwrite: bool) -> None:
        """Take up what is there, or remove it."""
        self._refuse_foreign()
        if resume and os.path.lexists(self.folder / STATE):
            self._read_state()
            self.fresh = self.done == 0
        elif overwrite or self._nothing_done():
            remove(self.folder)
        else:
            raise InputError(
                f"{self.folder} is left from an interrupted run; give --resume to go on with it "
                "or --overwrite to begin anew"
            )

    def _refuse_foreign(self) -> None:
        """Refuse a folder that no run of ours made, or that holds something else."""
        foreign = [self.folder.name]
        if self.folder.is_dir() and not self.folder.is_symlink():
            names = sorted(os.listdir(self.folder))
            foreign = [name for name in names if name not in FILES and not name.startswith("out.")]
        if foreign:
            raise InputError(
                f"{self.folder} is no unfinished run of cellscribe, or holds something else "
                f"({foreign[0]}); move that away, or give another output"
            )

    def _nothing_done(self) -> bool:
        """Whether the run was ended before its first block, or before it could say what it is."""
        if not os.path.lexists(self.folder / STATE):
            return True
        try:
            return int(self._state()["done"]) == 0
        except InputError:
            return False

    @property
    def _row(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def _open(self, name: str, size: int) -> BinaryIO:
        """Open a file for appending after its first `size` bytes, which are known to be safe."""
        path = self.folder / name
        if not self.done:
            return self._files.enter_context(path.open("wb"))
        if not path.exists() or path.stat().st_size < size:
            raise InputError(f"{path} is cut short; give --overwrite to begin anew")
        file = self._files.enter_context(path.open("r+b"))
        file.truncate(size)
        file.seek(size)
        return file

    def _state(self) -> dict[str, Any]:
        """Read ``state.json``; every part has its type, and no number is out of bounds."""
        path = self.folder / STATE
        try:
            with path.open("rb") as file:
                state = json.loads(file.read(LARGEST_STATE))
            done, n_blocks, files, identity = (
                state[key] for key in ("done", "blocks", "files", "identity")
            )
            whole = type(done) is type(n_blocks) is int and isinstance(files, str)
            if whole and isinstance(identity, dict) and 0 <= n_blocks <= done <= self.shape[0]:
                return dict(state)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        raise InputError(f"{path} is missing or damaged; give --overwrite to begin anew")

    def _read_state(self) -> None:
        state = self._state()
        identity = state["identity"]
        for key in self.identity | identity:
            if self.identity.get(key) != identity.get(key):
                raise self._other(key)
        self.done, self.n_blocks, self.files = state["done"], state["blocks"], state["files"]

    def _other(self, what: str, more: str = "") -> InputError:
        return InputError(
            f"{self.folder} was begun with another {what.replace('_', ' ')}; {more}give the same "
            "input and options again, or --overwrite to begin anew"
        )

    def _write_state(self) -> None:
        partial = self.folder / f"{STATE}.new"
        state = {
            "done": self.done,
            "blocks": self.n_blocks,
            "files": self.files,
            "identity": self.identity,
        }
        with partial.open("w", encoding="utf-8") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / STATE)

    def _check_rows(self) -> None:
        """Refuse rows that are not what was written."""
        cells, done = self.cells(), 0
        for block in self.blocks():
            rows = slice(done, done + int(block["rows"]))
            made = _hash(self.vectors(rows.start, rows.stop), cells[rows])
            if rows.stop <= done or made != block["made"].tobytes():
                raise InputError(
                    f"{self.folder}: rows {rows.start:,} to {rows.stop - 1:,} are not what was "
                    "written; give --overwrite to begin anew"
                )
            done = rows.stop
        if done != self.done:
            raise InputError(
                f"{self.folder}: state.json and blocks.bin do not fit together; give --overwrite "
                "to begin anew"
            )

    def check_input(self, counts: Counts, files: str) -> None:
        """Refuse to go on with cells that are not those of the finished rows.

        Parameters
        ----------
        counts
            The cells; read only if `files` are not what they were.
        files
            `InputFiles.digest` of the input.

        Raises
        ------
        InputError
            The counts of a finished block are others.
        """
        if self.done and (not files or files != self.files):
            blocks, first = self.blocks(), 0
            reading = read_blocks(counts, int(blocks["rows"][0]))
            with closing(reading):  # type: ignore[type-var]
                for block, read in zip(blocks, reading, strict=False):
                    last = first + int(block["rows"]) - 1
                    if hash_block(read) != block["counts"].tobytes():
                        raise self._other(
                            "input", f"cells {first:,} to {last:,} had other counts; "
                        )
                    first = last + 1
        if files != self.files:
            self.files = files
            with disk_errors(self.folder, GO_ON):
                self._write_state()

    def append(
        self,
        vectors: npt.NDArray[np.float32],
        cells: CellTokens,
        counts: Sequence[tuple[int, bytes]],
    ) -> None:
        """Add the next rows; when this returns they survive a crash of the machine.

        Parameters
        ----------
        vectors, cells
            ``[B, D]``, and what they were made from.
        counts
            Rows and hash of the blocks of counts that they are of, see `HashedCounts.take`.

        Raises
        ------
        OutputError
            The disk is full.
        """
        if self.dtype.itemsize == 2:
            check_float16(vectors, self.done)
        rows, facts = vectors.astype(self.dtype), cell_facts(cells)
        records = np.zeros(len(counts), BLOCK_RECORD)
        ends = np.cumsum([n_rows for n_rows, _ in counts])
        for at, (n_rows, digest) in enumerate(counts):
            part = slice(ends[at] - n_rows, ends[at])
            records[at] = n_rows, digest, _hash(rows[part], facts[part])
        added = ((self._vectors, rows), (self._cells, facts), (self._blocks, records))
        with disk_errors(self.folder, GO_ON):
            for file, values in added:
                file.write(values.tobytes())
                file.flush()
                os.fsync(file.fileno())
            self.done += len(rows)
            self.n_blocks += len(records)
            self._write_state()

    def vectors(self, start: int, stop: int) -> npt.NDArray[Any]:
        """``[stop - start, D]`` finished vectors, read from disk; a map would grow the process."""
        n_rows = max(0, min(stop, self.done) - start)
        flat = np.fromfile(
            self.folder / "vectors.npy",
            self.dtype,
            count=n_rows * self.shape[1],
            offset=len(self._header) + start * self._row,
        )
        return flat.reshape(n_rows, self.shape[1])

    def cells(self) -> npt.NDArray[Any]:
        """``[n_cells]`` of `CELL`, read from disk."""
        return np.fromfile(self.folder / "cells.bin", CELL, count=self.done)

    def blocks(self) -> npt.NDArray[Any]:
        """``[n_blocks]`` of `BLOCK_RECORD`, read from disk."""
        return np.fromfile(self.folder / "blocks.bin", BLOCK_RECORD, count=self.n_blocks)

    def counts_hash(self) -> str:
        """Hash the counts of all cells so far, from the hashes that were made as they were read."""
        blocks = self.blocks()
        counts = [digest.tobytes() for digest in blocks["counts"]]
        return hash_of_blocks(zip(blocks["rows"].tolist(), counts, strict=True))

    def close(self) -> None:
        """Close the files; they stay."""
        with disk_errors(self.folder, GO_ON):
            self._files.close()

    def discard(self) -> None:
        """Remove the folder."""
        try:
            self.close()
        finally:
            remove(self.folder)


def cell_facts(cells: CellTokens) -> npt.NDArray[Any]:
    """``[B]`` of `CELL`: what is kept of each cell."""
    facts = np.empty(len(cells.lengths), dtype=CELL)
    for name in ("umis", "umis_known", "genes", "genes_known"):
        facts[name] = getattr(cells, name)
    facts["tokens"] = cells.lengths
    return facts


def partial_folder(out: Path) -> Path:
    """Where an unfinished run for `out` lies."""
    return out.with_name(f"{out.name}.partial")


def npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """Begin of a ``.npy`` file, version 1.0 (numpy.lib.format)."""
    from io import BytesIO

    buffer = BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, about)
    return buffer.getvalue()


def fingerprint(counts: Counts, genes: GeneMap) -> str:
    """Hash what is known of an input before its counts are read: its size, its genes' tokens."""
    digest = hashlib.sha256(f"{counts.n_cells} {counts.n_genes}".encode())
    digest.update("\n".join(map(str, counts.var.index)).encode("utf-8", "replace"))
    digest.update(np.ascontiguousarray(genes.token).tobytes())
    return digest.hexdigest()[:16]


def _hash(vectors: npt.NDArray[Any], cells: npt.NDArray[Any]) -> bytes:
    digest = hashlib.blake2b(np.ascontiguousarray(vectors).view(np.uint8).data, digest_size=DIGEST)
    digest.update(cells.tobytes())
    return digest.digest()
