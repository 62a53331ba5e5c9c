"""Files that ``torch.save`` wrote, read without torch's own readers.

Both forms are read: the zip archive, and the older row of pickles with the numbers behind them. The
pickles go through `pickle_machine`; numbers are read from where the file keeps them, and a tensor
is a view whose sizes, strides and offset lie within its storage. Compressed, doubled or overlapping
members, sizes that lie and damaged numbers (by their CRC-32, where the file has it) are refused.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cellscribe.families.pickle_limits import check
from cellscribe.families.pickle_machine import Builder, Name, Named, run
from cellscribe.families.plain_values import PLAIN

if TYPE_CHECKING:
    import torch

MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of the older form."""
PICKLE = 1 << 28
"""Bytes of a pickle, at most."""
ROW = 1 << 26
"""The same of all pickles of the older form."""
SHARED = 4
"""Bytes of all tensors, at most, for a byte of the file: tensors may share storages."""
SLACK = 1 << 26
DIMENSIONS = 16
_LOCAL = b"PK\x03\x04"
_RECORD = 30
"""Bytes before the name of a member of a zip archive."""
_LEGACY = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
}
"""Classes of storages -> kinds of numbers."""
_UNTYPED = Named("torch.storage.UntypedStorage")


@dataclass(frozen=True)
class Storage:
    """Numbers of a file: kind (None where the tensors name it) and how many."""

    key: str
    dtype: torch.dtype | None
    length: int

    @property
    def n_bytes(self) -> int:
        """Bytes in the file."""
        return self.length * (self.dtype.itemsize if self.dtype is not None else 1)


class _Tensors:
    """Storages and tensors that a pickle of torch asks for."""

    def __init__(self, numbers: Callable[[Storage], bytearray] | None, limit: int) -> None:
        self.numbers, self.left = numbers, limit
        self.storages: dict[str, Storage] = {}
        self.read: dict[str, bytearray] = {}

    def storage(self, given: Any) -> Storage:
        """Take note of a storage: ``("storage", kind, key, place, length[, view])``."""
        check(type(given) is tuple and len(given) in (5, 6), "a storage of a strange form")
        word, dtype, key, _, length = given[:5]
        check(word in ("storage", b"storage"), "a storage of a strange form")
        check(given[5:] in ((), (None,)), "a storage within another one")
        key = key.decode("ascii") if isinstance(key, bytes) else key
        check(type(key) is str, "a storage without a name")
        check(type(length) is int and length >= 0, "a storage of a strange length")
        found = Storage(key, None if dtype is _UNTYPED else _kind(dtype), length)
        check(self.storages.setdefault(key, found) == found, f"storage {key} of two kinds")
        return found

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        """Make a tensor of a storage with a kind of numbers."""
        check(isinstance(storage, Storage), "a tensor without numbers")
        return self.view(storage, storage.dtype, offset, size, stride)

    def tensor_of(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, *rest: Any
    ) -> Any:
        """Make a tensor that names the kind of its numbers."""
        check(isinstance(storage, Storage) and bool(rest), "a tensor without numbers")
        return self.view(storage, _kind(rest[0]), offset, size, stride)

    def view(
        self, storage: Storage, dtype: torch.dtype | None, offset: Any, size: Any, stride: Any
    ) -> Any:
        import torch

        check(dtype is not None, "a tensor without a kind of numbers")
        assert dtype is not None
        whole = all(
            type(ns) is tuple
            and len(ns) <= DIMENSIONS
            and all(type(n) is int and n >= 0 for n in ns)
            for ns in (size, stride, (offset,))
        )
        check(whole and len(size) == len(stride), "a tensor of a strange shape")
        n_bytes = math.prod(size) * dtype.itemsize
        if n_bytes:
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            check(
                (last + 1) * dtype.itemsize <= storage.n_bytes and n_bytes <= storage.n_bytes,
                f"a tensor beyond the numbers of storage {storage.key:.40}",
            )
        self.left -= n_bytes
        check(self.left >= 0, "tensors that are many times the file")
        if self.numbers is None:
            return None
        if not n_bytes:
            return torch.empty(size, dtype=dtype)
        if storage.key not in self.read:
            self.read[storage.key] = self.numbers(storage)
        raw = self.read[storage.key]
        if dtype == torch.bool:
            check(not raw.strip(b"\0\1"), "a truth value of something else than 0 and 1")
        count = len(raw) // dtype.itemsize
        return torch.frombuffer(raw, dtype=dtype, count=count).as_strided(size, stride, offset)

    def names(self) -> dict[Name, Any]:
        """Names that a pickle of torch may use, and what each stands for."""
        import torch

        kinds = {n: t for n, t in vars(torch).items() if isinstance(t, torch.dtype)}
        v2, parameter = Builder(self.tensor), Builder(lambda data, *rest: data)
        return {
            **PLAIN,
            **{("torch", name): dtype for name, dtype in kinds.items()},
            # older torch named the device too
            **{
                (module, f"{name}Storage"): kinds[kind]
                for module in ("torch", "torch.cuda")
                for name, kind in _LEGACY.items()
            },
            ("torch.storage", "UntypedStorage"): _UNTYPED,
            ("torch", "UntypedStorage"): _UNTYPED,
            ("torch", "Size"): Builder(_size),
            ("torch", "device"): Builder(_device),
            ("torch.serialization", "_get_layout"): Builder(_layout),
            ("torch._utils", "_rebuild_tensor"): v2,
            ("torch._utils", "_rebuild_tensor_v2"): v2,
            ("torch._utils", "_rebuild_tensor_v3"): Builder(self.tensor_of),
            ("torch._utils", "_rebuild_parameter"): parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        }


def _kind(dtype: Any) -> torch.dtype:
    import torch

    check(isinstance(dtype, torch.dtype), "numbers of a strange kind")
    made: torch.dtype = dtype
    check(not str(made).startswith(("torch.q", "torch.bits")), "quantised numbers")
    return made


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    check(type(sizes) in (list, tuple), "a shape of something else than numbers")
    return tuple(sizes)


def _device(*given: Any) -> str:
    check(all(type(part) in (str, int) for part in given), "a device of a strange form")
    return ":".join(map(str, given))


def _layout(name: Any) -> str:
    check(name == "torch.strided", "numbers in a strange layout")
    return str(name)


def read(file: IO[bytes]) -> Any:
    """Read what ``torch.save`` wrote, on the CPU.

    Parameters
    ----------
    file
        Seekable, whole.

    Raises
    ------
    Forbidden
        It names something that is neither a tensor nor a plain value.
    Exception
        It is damaged.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(4)
    if start == _LOCAL:
        return _read_zip(file, size)
    check(len(start) == 4, "too short")
    check(start[:2] == b"\x80\x02", "not what torch.save writes now; save it again with torch")
    return _read_row(file, size)


def lists(path: Path, *names: str) -> bool:
    """Whether the pickle of a torch archive has all of these names; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
            if not inside or inside[0].file_size > PICKLE:
                return False
            with archive.open(inside[0]) as file:
                contents = file.read(PICKLE)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError):
        return False
    return all(name.encode() in contents for name in names)


# The zip archive


def _read_zip(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    found = {member.filename: member for member in members}
    check(len(found) == len(members), "a member that is there twice")
    check(sum(member.compress_size for member in members) <= size, "members that overlap")
    pickles = [name for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    check(len(pickles) == 1, "no data.pkl in it")
    top = pickles[0].removesuffix("data.pkl")
    check(f"{top}constants.pkl" not in found, "a TorchScript program, not a file of weights")
    has_sums = any(member.CRC for member in members)

    def member(name: str, most: int) -> bytearray:
        check(name in found, f"{name.removeprefix(top):.40} is missing")
        return _member(file, found[name], size, most, has_sums)

    if f"{top}byteorder" in found:
        check(member(f"{top}byteorder", 16) == b"little", "numbers of a big-endian computer")

    def numbers(storage: Storage) -> bytearray:
        raw = member(f"{top}data/{storage.key}", storage.n_bytes)
        check(
            len(raw) == storage.n_bytes,
            f"storage {storage.key:.40} has {len(raw):,} bytes instead of {storage.n_bytes:,}",
        )
        return raw

    tensors = _Tensors(numbers, SHARED * size + SLACK)
    data = bytes(member(pickles[0], PICKLE))
    return run(data, tensors.names(), tensors.storage)[0]


def _member(
    file: IO[bytes], info: zipfile.ZipInfo, size: int, most: int, has_sum: bool
) -> bytearray:
    """Bytes of a member that is stored as it is."""
    name = info.filename[:80]
    check(
        info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size,
        f"{name} is compressed, which torch does not do; save it again with torch",
    )
    check(info.file_size <= most, f"{name} has {info.file_size:,} bytes, more than it can have")
    file.seek(info.header_offset)
    record = file.read(_RECORD)
    check(len(record) == _RECORD and record[:4] == _LOCAL, f"{name} is not where it should be")
    n_name, n_extra = (int.from_bytes(record[at : at + 2], "little") for at in (26, 28))
    start = info.header_offset + _RECORD + n_name + n_extra
    check(start + info.file_size <= size, f"{name} ends after the end of the file")
    raw = _take(file, start, info.file_size)
    if has_sum:
        check(zlib.crc32(raw) == info.CRC, f"the numbers of {name} do not have their checksum")
    return raw


def _take(file: IO[bytes], start: int, n_bytes: int) -> bytearray:
    raw = bytearray(n_bytes)
    file.seek(start)
    view, at = memoryview(raw), 0
    while at < n_bytes:
        some = file.read(min(n_bytes - at, 1 << 24))
        check(bool(some), "the file ends early")
        view[at : at + len(some)] = some
        at += len(some)
    view.release()
    return raw


# The older form


def _read_row(file: IO[bytes], size: int) -> Any:
    file.seek(0)
    data = file.read(min(size, ROW))
    at = 0

    def following(names: Mapping[Name, Any], persistent: Any = None) -> Any:
        nonlocal at
        value, n_bytes = run(data[at:] if at else data, names, persistent)
        at += n_bytes
        return value

    check(following(PLAIN) == MAGIC, "not what torch.save writes")
    following(PLAIN)
    system = following(PLAIN)
    check(
        isinstance(system, dict) and system.get("little_endian") is True,
        "numbers of a big-endian computer",
    )
    start, limit = at, SHARED * size + SLACK
    # once for the lengths of the storages, which come after it, and once for the tensors
    first = _Tensors(None, limit)
    following(first.names(), first.storage)
    keys = following(PLAIN)
    check(
        type(keys) is list
        and all(type(key) is str for key in keys)
        and len(set(keys)) == len(keys),
        "no list of its numbers",
    )
    places = {}
    for key in keys:
        check(key in first.storages, "numbers that no tensor has")
        check(at + 8 <= size, "the file ends early")
        length = int.from_bytes(_take(file, at, 8), "little")
        storage = first.storages[key]
        check(length in (storage.length, storage.n_bytes), f"storage {key:.40} of another length")
        places[key] = at + 8
        at += 8 + storage.n_bytes
        check(at <= size, "the file ends early")

    def numbers(storage: Storage) -> bytearray:
        check(storage.key in places, f"storage {storage.key:.40} is missing")
        return _take(file, places[storage.key], storage.n_bytes)

    tensors = _Tensors(numbers, limit)
    return run(data[start:], tensors.names(), tensors.storage)[0]
