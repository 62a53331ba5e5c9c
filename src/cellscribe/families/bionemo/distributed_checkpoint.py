"""Weights of a ``torch_dist`` folder, as Megatron-core and NeMo 2 save them.

The folder holds ``.metadata``, a pickle with the place of every tensor, and ``*.distcp``, the
tensors, each a torch file of its own within a larger one. Neither torch's classes nor its readers
see them: the pickle's classes become plain records here, and pieces are read by `torch_file`, only
those that are needed. Objects among them (optimizer, random states) are not read.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cellscribe.errors import InputError
from cellscribe.families.pickle_limits import Damaged, Record, check
from cellscribe.families.pickle_machine import Builder, Forbidden, Name, Unfinished, run
from cellscribe.families.plain_values import PLAIN
from cellscribe.families.source import AGAIN, first_line, opened
from cellscribe.families.unpickle import load_torch

if TYPE_CHECKING:
    import torch

METADATA = ".metadata"
SIZE = 1 << 28
"""Bytes of the metadata, at most."""
_CHECKPOINT = "torch.distributed.checkpoint"
_MEGATRON = "megatron.core.dist_checkpointing."
RECORDS = {
    f"{_CHECKPOINT}.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    ),
    f"{_CHECKPOINT}.filesystem": ("_StorageInfo", "_StoragePrefix"),
    f"{_CHECKPOINT}.planner": (
        "BytesIOWriteData",
        "SavePlan",
        "TensorWriteData",
        "WriteItem",
    ),
    # where torch before 2.3 kept the first two
    "torch.distributed._shard.sharded_tensor.metadata": ("TensorProperties",),
    # Megatron's heirs of torch's classes only add fields
    **{
        f"{_MEGATRON}{module}": ("MCoreMetadata", "MCoreSavePlan")
        for module in ("strategies.torch", "strategies.checkpointable", "metadata")
    },
}
"""Module -> classes of ``.metadata`` that become records."""
ENUMS = {
    f"{_CHECKPOINT}.metadata": ("_MEM_FORMAT_ENCODING",),
    f"{_CHECKPOINT}.planner": ("WriteItemType",),
    "torch.distributed._shard.sharded_tensor.metadata": ("MEM_FORMAT_ENCODING",),
}
_KINDS = {"MCoreMetadata": "Metadata", "MCoreSavePlan": "SavePlan"}


Place = tuple[str, tuple[int, ...] | None]
"""Key of a piece: its tensor's, and where in it the piece begins."""


@dataclass(frozen=True)
class Piece:
    """A piece of a tensor, and where it is kept."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    start: int
    length: int


@dataclass(frozen=True)
class Stored:
    """A tensor of the folder."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...]


def _names() -> dict[Name, Any]:
    """Names that ``.metadata`` may use."""
    import torch

    def record(kind: str) -> Builder:
        kind = _KINDS.get(kind, kind)

        def make(*given: Any) -> Record | Unfinished:
            check(not given, "an object with arguments")
            return Unfinished(_key) if kind == "MetadataIndex" else Record(kind)

        return Builder(make)

    enums = {
        (m, kind): Builder(lambda value: value) for m, kinds in ENUMS.items() for kind in kinds
    }

    def member(enum: Any, name: Any) -> str:
        """Python 3.11.0 to 3.11.3 save a member of an enumeration as an attribute of it."""
        check(any(enum is each for each in enums.values()), "an attribute of an object")
        check(type(name) is str, "an attribute without a name")
        return str(name)

    return {
        **PLAIN,
        ("builtins", "getattr"): Builder(member),
        **{("torch", n): t for n, t in vars(torch).items() if isinstance(t, torch.dtype)},
        **{(module, kind): record(kind) for module, kinds in RECORDS.items() for kind in kinds},
        **enums,
        ("torch", "Size"): Builder(lambda sizes=(): tuple(sizes)),
        ("torch.serialization", "_get_layout"): Builder(str),
        ("pathlib", "PosixPath"): Builder(_path),
        ("pathlib", "PurePosixPath"): Builder(_path),
        ("pathlib._local", "PosixPath"): Builder(_path),
    }


def _key(state: Any) -> Any:
    """Key of the table of files, as a tuple: tensor, place of the piece, number of the piece."""
    check(isinstance(state, dict), "a key of a strange form")
    key, offset = state.get("fqn"), state.get("offset")
    check(type(key) is str, "a key that is no text")
    return key, None if offset is None else _whole(offset), state.get("index")


def _path(*parts: Any) -> str:
    check(all(type(part) is str for part in parts), "a path of something else than text")
    return str(PurePosixPath(*parts))


def _whole(numbers: Any) -> tuple[int, ...]:
    """Shape or place, of whole numbers."""
    check(
        isinstance(numbers, tuple | list) and all(type(n) is int and n >= 0 for n in numbers),
        "a shape of something else than whole numbers",
    )
    return tuple(numbers)


def _field(record: Any, kind: str, name: str) -> Any:
    check(
        isinstance(record, Record) and record.kind == kind and isinstance(record.fields, dict),
        f"no {kind} where one should be",
    )
    check(name in record.fields, f"a {kind} without {name}")
    return record.fields[name]


def read_metadata(folder: Path) -> dict[str, Stored]:
    """Read ``.metadata``: the tensors of a folder, by key, and where their pieces are.

    Raises
    ------
    InputError
        It is missing, damaged, or holds something else than metadata.
    """
    path = folder / METADATA
    try:
        with opened(path) as file:
            data = file.read(SIZE + 1)
    except InputError as error:
        raise InputError(f"{error}; copy the whole folder, this hidden file too") from None
    try:
        check(len(data) <= SIZE, f"more than {SIZE:,} bytes")
        return _tensors(run(data, _names())[0])
    except Forbidden as error:
        raise InputError(
            f"{path}: refused, it holds more than a table of tensors: reading it would import "
            f"{first_line(error)}; ask its makers for the weights alone"
        ) from None
    except Exception as error:  # noqa: BLE001  (a damaged pickle raises whatever it happens upon)
        raise InputError(f"{path}: damaged ({first_line(error)}); {AGAIN}") from None


def _tensors(metadata: Any) -> dict[str, Stored]:
    import torch

    table = _field(metadata, "Metadata", "state_dict_metadata")
    files = _field(metadata, "Metadata", "storage_data")
    check(isinstance(table, dict), "no table of tensors in it")
    check(isinstance(files, dict), "no table of files in it")
    places: dict[Place, Any] = {}
    for index, place in files.items():
        check(isinstance(index, tuple) and len(index) == 3, "a file without a key")
        places[index[:2]] = place
    found = {}
    for key, entry in table.items():
        if not (isinstance(entry, Record) and entry.kind == "TensorStorageMetadata"):
            continue
        properties = _field(entry, "TensorStorageMetadata", "properties")
        check(isinstance(properties, Record), "a tensor without a kind of numbers")
        # a tuple since torch 2.1, its first part; a table before
        state = properties.fields
        dtype = state.get("dtype") if isinstance(state, dict) else state[0]
        if not isinstance(dtype, torch.dtype):
            raise Damaged("a tensor without a kind of numbers")
        sizes = _whole(_field(entry, "TensorStorageMetadata", "size"))
        pieces = [
            _piece(key, chunk, sizes, places)
            for chunk in _field(entry, "TensorStorageMetadata", "chunks")
        ]
        check(
            sum(math.prod(piece.sizes) for piece in pieces) == math.prod(sizes),
            f"pieces of {key} that do not make it up",
        )
        found[key] = Stored(sizes, dtype, tuple(pieces))
    return found


def _piece(key: Any, chunk: Any, whole: tuple[int, ...], places: Mapping[Place, Any]) -> Piece:
    check(type(key) is str, "a tensor whose key is no text")
    offsets = _whole(_field(chunk, "ChunkStorageMetadata", "offsets"))
    sizes = _whole(_field(chunk, "ChunkStorageMetadata", "sizes"))
    check(
        len(offsets) == len(sizes) == len(whole)
        and all(at + n <= most for at, n, most in zip(offsets, sizes, whole, strict=True)),
        f"a piece of {key} outside it",
    )
    place = places.get((key, offsets))
    if place is None:
        place = places.get((key, None))
    if place is None:
        raise Damaged(f"no file for a piece of {key}")
    file = _field(place, "_StorageInfo", "relative_path")
    start, length = (_field(place, "_StorageInfo", name) for name in ("offset", "length"))
    check(type(file) is str, "a file whose name is no text")
    _whole((start, length))
    check(not place.fields.get("transform_descriptors"), "pieces that are compressed or encrypted")
    return Piece(offsets, sizes, file, start, length)


def read_distributed(folder: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    """Read tensors of a ``torch_dist`` folder, on the CPU, in the dtype that they are kept in.

    Parameters
    ----------
    folder
        Holds ``.metadata`` and ``*.distcp``.
    wanted
        Whether the tensor of a key is to be read.

    Returns
    -------
    Tensors by key; what is no tensor is not read.

    Raises
    ------
    InputError
        A file is missing, cut short or holds more than tensors.
    """
    stored = {key: entry for key, entry in read_metadata(folder).items() if wanted(key)}
    _check_files(folder, stored)
    return {key: _read_tensor(folder, key, entry) for key, entry in stored.items()}


def _read_tensor(folder: Path, key: str, entry: Stored) -> torch.Tensor:
    import torch

    made: torch.Tensor | None = None
    for piece in entry.pieces:
        path = folder / piece.file
        with opened(path) as file:
            file.seek(piece.start)
            part = load_torch(io.BytesIO(file.read(piece.length)), f"{path}, {key}")
        if not isinstance(part, torch.Tensor) or part.dtype != entry.dtype:
            raise _damaged(path, Damaged(f"{key} is not of the kind that the metadata says"))
        # a piece may be kept with the rest of a larger storage, but never in another shape
        if tuple(part.shape) != piece.sizes:
            raise _damaged(
                path, Damaged(f"{key} has shape {list(part.shape)}, not {list(piece.sizes)}")
            )
        if piece.sizes == entry.sizes:
            return part
        if made is None:
            # what no piece covers is then found to be no number
            empty = math.nan if entry.dtype.is_floating_point else 0
            made = torch.full(entry.sizes, empty, dtype=entry.dtype)
        spans = zip(piece.offsets, piece.sizes, strict=True)
        made[tuple(slice(at, at + n) for at, n in spans)] = part
    return torch.empty(entry.sizes, dtype=entry.dtype) if made is None else made


def _damaged(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: damaged ({first_line(error)}); {AGAIN}")


def _check_files(folder: Path, stored: Mapping[str, Stored]) -> None:
    """Refuse a folder whose files are not all there, or shorter than its metadata says."""
    needed: dict[str, int] = {}
    total = 0
    for entry in stored.values():
        for piece in entry.pieces:
            total += max(math.prod(piece.sizes) * entry.dtype.itemsize, piece.length)
            needed[piece.file] = max(piece.start + piece.length, needed.get(piece.file, 0))
    for name, size in sorted(needed.items()):
        path = folder / name
        if PurePosixPath(name).name != name or name in (".", ".."):
            raise InputError(
                f"{folder / METADATA}: names a file outside its folder, {first_line(name)}"
            )
        if not path.is_file():
            raise InputError(f"{path}: missing; copy or download the whole folder")
        if path.stat().st_size < size:
            raise InputError(
                f"{path}: cut short ({path.stat().st_size:,} of at least {size:,} bytes); {AGAIN}"
            )
    there = sum((folder / name).stat().st_size for name in needed)
    if total > there:
        raise InputError(
            f"{folder}: its tensors are {total:,} bytes, of which {there:,} are there; {AGAIN}"
        )
