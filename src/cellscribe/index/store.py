"""An index on disk: a folder of immutable files, and the header that says which of them count.

``index.json`` names every file with its size and SHA-256. Each source is a part of two files:
``vectors-N.npy`` (memory-mapped) and ``cells-N.parquet`` (names, labels and other columns of obs).
``search-N.faiss`` is the library's own file, where there is one. Nothing that is there is ever
changed: whoever adds writes new files and then, in one step, a new header; files that no header
names are left by a killed process, and go when the next one adds.

Nothing is unpickled. Sizes are compared when an index is opened, hashes by `verify`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from cellscribe.config.checked import Between, Share, check_value
from cellscribe.config.files import check_file, read_json
from cellscribe.errors import InputError
from cellscribe.writing import hash_of, write_json

if TYPE_CHECKING:
    import pyarrow as pa

BUNDLED = Path(__file__).parents[1] / "bundled"
FORMAT = "cellscribe index"
HEADER = "index.json"
FILE = re.compile(r"(vectors|cells|search)-(\d{5,9})\.(npy|parquet|faiss)")
AGAIN = "build it again, or copy it again from where it was whole"
CELL_ID, SOURCE = "cell_id", "source"
CELL_HASH, VECTOR_HASH = "cell_hash", "vector_hash"
OWN = (CELL_ID, CELL_HASH, VECTOR_HASH)
"""Columns of the tables besides those of obs."""


class StoredFile(TypedDict):
    """A file of the folder."""

    file: str
    bytes: Annotated[int, Between(least=1)]
    sha256: str


class Part(TypedDict):
    """The cells of one source."""

    name: str
    hash: str
    cells: Annotated[int, Between(least=1)]
    left_out: dict[str, int]
    vectors: StoredFile
    table: StoredFile


class MadeBy(TypedDict):
    """The model whose vectors an index holds."""

    name: str
    hash: str
    vocabulary_hash: str
    pooling: str
    context: int
    width: Annotated[int, Between(least=1)]
    options: dict[str, Any]


class Settings(TypedDict):
    """How an index was built, and is built on."""

    n_neighbors: Annotated[int, Between(least=1)]
    accuracy: Share
    min_cells: Annotated[int, Between(least=1)]
    folds: Annotated[int, Between(least=2)]
    seed: Annotated[int, Between(least=0)]
    dtype: Literal["float32", "float16"]
    search: Literal["auto", "exact", "approximate"]
    learnt_on: NotRequired[int]
    """Cells that there were when lists and codes were learnt."""


class Space(TypedDict):
    """How vectors are compared: by cosine, once centred and scaled."""

    kind: Literal["cosine", "centred", "standardised"]
    mean: list[float]
    scale: list[float]


class Column(TypedDict):
    """What the labels of one column are worth."""

    labels: dict[str, int]
    threshold: Share
    known: list[float]
    """Of `annotation.domain.known_probability`."""
    spreads: dict[str, Annotated[float, Between(above=0.0)]]
    """How far held-out cells of each label lie from it."""
    limit: Annotated[float, Between(above=0.0)]
    near: Annotated[float, Between(above=0.0)]
    """Distances, in units of these, within which 95 % and a quarter of the held-out cells lie."""
    most_far: Share
    most_ratio: Annotated[float, Between(least=0.0)]
    """Of the held-out group that lies farthest: cells beyond the limit, and the median."""
    disagreement: Share
    confused: list[list[Any]]
    calibration: dict[str, Any]
    ontology: dict[str, str]


class Header(TypedDict):
    """What is read again of ``index.json``."""

    format: Literal["cellscribe index"]
    version: Literal[2]
    model: MadeBy
    labels: list[str]
    obs: list[str]
    group: str | None
    settings: Settings
    parts: list[Part]
    space: Space
    columns: dict[str, Column]
    search: StoredFile | None
    searched_cells: int
    about: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Index:
    """An opened index; its vectors stay on the disk."""

    folder: Path
    header: Header

    @property
    def n_cells(self) -> int:
        """Cells of all parts."""
        return sum(part["cells"] for part in self.header["parts"])

    @property
    def width(self) -> int:
        """``D``."""
        return self.header["model"]["width"]

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """Row at which each part begins, and the number of cells."""
        return np.cumsum([0, *(part["cells"] for part in self.header["parts"])])

    @cached_property
    def vectors(self) -> list[npt.NDArray[np.floating]]:
        """``[n, D]`` of each part, memory-mapped.

        Raises
        ------
        InputError
            A file is not what the header says.
        """
        return [self._map(part) for part in self.header["parts"]]

    def _map(self, part: Part) -> npt.NDArray[np.floating]:
        path = self.folder / part["vectors"]["file"]
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: damaged ({error}); {AGAIN}") from None
        if found.shape != (part["cells"], self.width) or found.dtype.kind != "f":
            raise InputError(f"{path}: not the vectors that {HEADER} names; {AGAIN}")
        return found

    def rows(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Read the vectors of some cells, ``[n, D]``."""
        if len(self.vectors) == 1:
            return self.vectors[0][places].astype(np.float32)
        found = np.empty((len(places), self.width), np.float32)
        part = np.searchsorted(self.starts, places, side="right") - 1
        for number in np.unique(part):
            here = part == number
            found[here] = self.vectors[number][places[here] - self.starts[number]]
        return found

    def blocks(self, rows: int) -> Iterator[tuple[int, npt.NDArray[np.floating]]]:
        """Yield the first row of each block and its vectors."""
        for start, part in zip(self.starts, self.vectors, strict=False):
            for first in range(0, len(part), rows):
                yield int(start) + first, part[first : first + rows]

    def column(self, name: str) -> pa.ChunkedArray:
        """Read a column of all cells, ``n_cells`` long; texts are coded.

        Raises
        ------
        InputError
            A table is damaged.
        """
        import pyarrow as pa

        if name == SOURCE:
            names = pa.array([part["name"] for part in self.header["parts"]])
            which = np.repeat(np.arange(len(names), dtype=np.int32), np.diff(self.starts))
            return pa.chunked_array([pa.DictionaryArray.from_arrays(which, names)])
        parts = [self._read(part, name) for part in self.header["parts"]]
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks])

    def coded(self, name: str) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Read a column of texts: its values, sorted, and the number of each cell's."""
        import pyarrow as pa

        if self.n_cells == 0:
            return [], np.zeros(0, np.int64)
        whole = self.column(name).dictionary_encode().unify_dictionaries().combine_chunks()
        coded = whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
        values = np.array(coded.dictionary.to_pylist(), object).astype(str)
        order = np.argsort(values)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return values[order].tolist(), place[np.asarray(coded.indices)]

    def take(self, name: str, places: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
        """Read a column of texts of some cells, in the shape of `places`."""
        import pyarrow as pa

        known, where = np.unique(places, return_inverse=True)
        found = self.column(name).take(pa.array(known)).cast(pa.string())
        return found.to_numpy(zero_copy_only=False)[where.reshape(places.shape)]

    def _read(self, part: Part, name: str) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.folder / part["table"]["file"]
        try:
            column = pq.read_table(path, columns=[name]).column(name)
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"{path}: damaged ({reason}); {AGAIN}") from None
        if len(column) != part["cells"]:
            raise InputError(f"{path}: not the cells that {HEADER} names; {AGAIN}")
        return column


def bundled_index(model: Path) -> Path | None:
    """Find the index that comes with a bundled model, by the model's directory."""
    found = BUNDLED / f"{model.name}.index"
    return found if model.parent == BUNDLED and found.is_dir() else None


def open_index(folder: str | Path) -> Index:
    """Open an index, and compare the sizes of its files.

    Raises
    ------
    InputError
        It is no index, or of a later version, or a file is missing or of another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise InputError(f"{folder} is {what}; give the folder that cellscribe index build wrote")
    if not (folder / HEADER).exists():
        raise InputError(
            f"{folder}: no index (it has no {HEADER}); give the folder that cellscribe index build "
            "wrote"
        )
    found = read_json(folder / HEADER, fix=AGAIN)
    if found.get("format") != FORMAT:
        raise InputError(f"{folder / HEADER}: not the header of an index; {AGAIN}")
    if found.get("version") == 1:
        raise InputError(f"{folder}: an index of an earlier version; build it again")
    if found.get("version") != 2:
        raise InputError(f"{folder}: an index of a later version; update cellscribe")
    header = check_header(found, folder / HEADER)
    for stored in files_of(header):
        size = check_file(folder / stored["file"], fix=AGAIN)
        if size != stored["bytes"]:
            raise InputError(
                f"{folder / stored['file']}: {size:,} bytes where {stored['bytes']:,} were "
                f"written; {AGAIN}"
            )
    return Index(folder, header)


def check_header(found: Any, where: Path) -> Header:
    """Check all that is read again of a header.

    Raises
    ------
    InputError
        A field is missing, of another type, out of bounds, or at odds with another.
    """
    try:
        header: Header = check_value(Header, found, "")
    except InputError as error:
        raise InputError(f"{where}: {error}; {AGAIN}") from None
    for stored in files_of(header):
        if not FILE.fullmatch(stored["file"]):
            raise InputError(f"{where}: {stored['file']!r} is no file of an index; {AGAIN}")
    width = header["model"]["width"]
    if not header["parts"] or any(len(header["space"][k]) != width for k in ("mean", "scale")):
        raise InputError(f"{where}: damaged; {AGAIN}")
    if set(header["labels"]) != set(header["columns"]):
        raise InputError(f"{where}: labels and columns do not belong together; {AGAIN}")
    for name, column in header["columns"].items():
        if set(column["spreads"]) != set(column["labels"]) or len(column["known"]) != 3:
            raise InputError(f"{where}: what was learnt of {name} is damaged; {AGAIN}")
    return header


def files_of(header: Header) -> list[StoredFile]:
    """All files that a header names."""
    found = [part[kind] for part in header["parts"] for kind in ("vectors", "table")]
    return found + ([header["search"]] if header["search"] else [])


def verify(index: Index, files: Sequence[StoredFile] | None = None) -> None:
    """Compare the hashes of all files, or of some.

    Raises
    ------
    InputError
        A file is not as it was written.
    """
    for stored in files_of(index.header) if files is None else files:
        path = index.folder / stored["file"]
        if hash_of(path) != stored["sha256"]:
            raise InputError(f"{path}: not as it was written (another SHA-256); {AGAIN}")


def describe(path: Path) -> StoredFile:
    """Size and hash of a file that was just written, which is on the disk from then on."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": hash_of(path)}


def next_number(folder: Path) -> int:
    """A number that no file of the folder has."""
    found = (FILE.fullmatch(path.name) for path in folder.iterdir())
    return 1 + max((int(match[2]) for match in found if match), default=-1)


def commit(folder: Path, header: Header) -> Index:
    """Write the header, in one step; from then on its files are the index."""
    write_json(folder / HEADER, header)
    return Index(folder, header)


def is_ours(path: Path) -> bool:
    """Tell files of an index, finished or on their way, by their names."""
    name = re.sub(r"^\.(.*)\.partial-\d+$", r"\1", path.name)
    return FILE.fullmatch(name) is not None and not path.is_symlink()


def remove_unnamed(folder: Path, header: Header | None) -> None:
    """Remove files of an index that its header does not name; files of others stay."""
    named = {stored["file"] for stored in files_of(header)} if header else set()
    for path in folder.iterdir():
        if is_ours(path) and path.name not in named:
            path.unlink(missing_ok=True)
