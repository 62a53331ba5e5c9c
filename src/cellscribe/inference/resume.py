"""The state of an embedding run, on disk next to its output.

``OUT.partial/`` holds ``vectors.npy`` (the finished rows, appended), ``cells.bin`` (what each cell
held, see `CELL`) and ``state.json`` (what is being made of what, and how many rows are safe). A run
that is killed at any moment goes on from there, and since blocks always begin at the same rows,
with the same bytes as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cellscribe.cells.counts import Counts
from cellscribe.cells.tokens import CellTokens
from cellscribe.config import OutputDtype
from cellscribe.errors import InputError
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
GO_ON = "free some space and go on with the same command and --resume"


class Partial:
    """The folder of an unfinished run; `close` or `discard` it.

    Attributes
    ----------
    folder
        ``OUT.partial``.
    done
        Rows that are safely on disk.
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
        self.done = 0
        self.fresh = True
        self._header = npy_header(shape, self.dtype)
        if self.folder.exists():
            if resume:
                self.done = self._read_state()
                self.fresh = False
            elif overwrite:
                remove(self.folder)
            else:
                raise InputError(
                    f"{self.folder} is left from an interrupted run, or another run is at work; "
                    "give --resume to go on with it or --overwrite to begin anew"
                )
        self._files = ExitStack()
        try:
            with disk_errors(self.folder):
                self.folder.mkdir(exist_ok=True)
                self._vectors = self._open("vectors.npy", len(self._header) + self.done * self._row)
                self._cells = self._open("cells.bin", self.done * CELL.itemsize)
                if not self.done:
                    self._vectors.write(self._header)
                    self._vectors.flush()
                self._write_state()
        except InputError:
            (self.close if self.done else self.discard)()
            raise

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

    def _read_state(self) -> int:
        path = self.folder / "state.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            identity, done = state["identity"], int(state["done"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{path} is missing or damaged; give --overwrite to begin anew"
            ) from None
        for key in self.identity | identity:
            if self.identity.get(key) != identity.get(key):
                raise InputError(
                    f"{self.folder} was begun with another {key.replace('_', ' ')}; give the same "
                    "input and options again, or --overwrite to begin anew"
                )
        return done

    def _write_state(self) -> None:
        partial = self.folder / "state.json.new"
        with partial.open("w", encoding="utf-8") as file:
            json.dump({"done": self.done, "identity": self.identity}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.folder / "state.json")

    def append(self, vectors: npt.NDArray[np.float32], cells: CellTokens) -> None:
        """Add the next rows; when this returns they survive a crash of the machine.

        Raises
        ------
        OutputError
            The disk is full.
        """
        with disk_errors(self.folder, GO_ON):
            facts = cell_facts(cells)
            for file, rows in ((self._vectors, vectors.astype(self.dtype)), (self._cells, facts)):
                file.write(rows.tobytes())
                file.flush()
                os.fsync(file.fileno())
            self.done += len(vectors)
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


def fingerprint(counts: Counts) -> str:
    """Tell inputs apart without reading them whole: sizes of files, some bytes, genes."""
    digest = hashlib.sha256()
    digest.update(f"{counts.n_cells} {counts.n_genes}".encode())
    digest.update("\n".join(map(str, counts.var.index)).encode())
    if counts.path is None:
        first = next(counts.blocks(256))
        digest.update(first.indices.tobytes() + first.data.tobytes())
        return digest.hexdigest()[:16]
    path = Path(counts.path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)} {size}".encode())
    for file in files[:64]:
        with file.open("rb") as content:
            digest.update(content.read(1 << 16))
            content.seek(max(0, file.stat().st_size - (1 << 16)))
            digest.update(content.read(1 << 16))
    return digest.hexdigest()[:16]
