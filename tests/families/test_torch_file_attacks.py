"""Torch files whose archive, numbers or tensors are not what torch writes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families.test_unpickle_attacks import DEEP, call, name, number, text

from cellscribe.errors import InputError
from cellscribe.families.unpickle import read_tensors, read_torch

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
    *(torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool, torch.complex64),
    *(torch.float8_e4m3fn,),
)

NEWEST = (torch.uint16, torch.float8_e4m3fn)


def saved(value: Any, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    def read_bytes(data: bytes) -> Any:
        (tmp_path / "model.pt").write_bytes(data)
        return read_torch(tmp_path / "model.pt")

    return read_bytes


@pytest.fixture
def refused(read: Callable[[bytes], Any]) -> Callable[[bytes], str]:
    def line_of(data: bytes) -> str:
        with pytest.raises(InputError) as error:
            read(data)
        line = str(error.value)
        assert "\n" not in line and line.isprintable() and len(line) < 500
        return line

    return line_of


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_those_of_torch(zipped: bool, read: Callable[[bytes], Any]) -> None:
    base = torch.arange(24.0)
    value = {
        # torch cannot read its own newest kinds in the older form
        **{str(t): torch.tensor([0, 1, 1]).to(t) for t in DTYPES if zipped or t not in NEWEST},
        "view": base.view(4, 6)[1:3, 2:].t(),
        "tied": base,
        "empty": torch.zeros(0, 3),
        "one": torch.tensor(2.0),
        "row": torch.arange(3.0).expand(1, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.Linear(2, 3).state_dict(),
        "size": torch.Size([2, 3]),
        "dtype": torch.float32,
        "plain": [1, 2.5, "a", None, True, {"b": (1,)}],
    }
    data = saved(value, zipped=zipped)
    found, wanted = read(data), torch.load(io.BytesIO(data), weights_only=True)
    assert list(found) == list(wanted)
    for key, ours in found.items():
        theirs = wanted[key]
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, key
            assert ours.stride() == theirs.stride(), key
            assert torch.equal(ours.view(theirs.dtype), theirs) or key.startswith("torch.float8")
    for key, theirs in wanted["state"].items():
        assert torch.equal(found["state"][key], theirs)
    assert found["plain"] == value["plain"]
    assert (found["size"], found["dtype"]) == ((2, 3), torch.float32)


def test_numbers_without_checksums_are_read(read: Callable[[bytes], Any]) -> None:
    from torch.utils.serialization import config

    config.save.compute_crc32 = False
    try:
        data = saved({"a": torch.arange(4)})
    finally:
        config.save.compute_crc32 = True
    assert torch.equal(read(data)["a"], torch.arange(4))


def test_a_changed_bit_of_the_numbers_is_seen(refused: Callable[[bytes], str]) -> None:
    data = bytearray(saved({"a": torch.arange(100.0)}))
    place = data.index(np.arange(100, dtype="<f4").tobytes())
    data[place + 41] ^= 4
    assert "checksum" in refused(bytes(data))


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def zipped(parts: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for member, data in parts.items():
            archive.writestr(member, data)
    return file.getvalue()


def storage(length: int = 3, *, key: str = "0", kind: str = "torch.FloatStorage") -> bytes:
    return b"(" + text("storage") + name(kind) + text(key) + text("cpu") + number(length) + b"tQ"


def whole(*shape: int) -> bytes:
    return b"(" + b"".join(map(number, shape)) + b"t"


def tensor(
    size: bytes, stride: bytes, *, offset: bytes = b"K\x00", of: bytes | None = None
) -> bytes:
    hooks = call("collections.OrderedDict")
    of = storage() if of is None else of
    return call("torch._utils._rebuild_tensor_v2", of, offset, size, stride, b"\x89", hooks)


def with_pickle(*parts: bytes, numbers: bytes = bytes(12), **more: bytes) -> bytes:
    data = b"\x80\x02" + b"".join(parts) + b"."
    archive = {"m/data.pkl": data, "m/byteorder": b"little", "m/data/0": numbers}
    return zipped({**archive, **{f"m/data/{key}": value for key, value in more.items()}})


@pytest.mark.parametrize("kind", ["torch.FloatStorage", "torch.cuda.FloatStorage"])
def test_the_hand_made_one_is_read(kind: str, read: Callable[[bytes], Any]) -> None:
    data = tensor(whole(3), whole(1), of=storage(kind=kind))
    found = read(with_pickle(data, numbers=np.arange(3, dtype="<f4").tobytes()))
    assert torch.equal(found, torch.arange(3.0))


TENSORS = {
    "more than its storage": tensor(whole(4), whole(1)),
    "a stride beyond it": tensor(whole(2), whole(3)),
    "an offset beyond it": tensor(whole(1), whole(1), offset=b"K\x03"),
    "a negative offset": tensor(whole(1), whole(1), offset=number(-1)),
    "a negative length": tensor(whole(-1), whole(1)),
    "a negative stride": tensor(whole(2), whole(-1)),
    "a product that overflows": tensor(whole(1 << 30, 1 << 30, 1 << 30), whole(0, 0, 0)),
    "one number, many times": tensor(whole(1 << 20), whole(0)),
    "fewer strides than sizes": tensor(whole(1, 1), whole(1)),
    "sizes of texts": tensor(b"(" + text("a") + b"t", whole(1)),
    "sizes that are truths": tensor(b"(\x88t", whole(1)),
    "no storage": tensor(whole(1), whole(1), of=b"N"),
    "a longer storage": tensor(whole(1), whole(1), of=storage(1 << 30)),
    "a shorter storage": tensor(whole(1), whole(1), of=storage(2)),
    "a negative storage": tensor(whole(1), whole(1), of=storage(-3)),
    "another storage": tensor(whole(1), whole(1), of=storage(key="../0")),
    "numbers of no kind": tensor(whole(1), whole(1), of=storage(kind="torch.UntypedStorage")),
    "two kinds": storage() + storage(kind="torch.LongStorage") + b"\x86",
    "a strange id": text("storage") + b"Q",
    "a module's id": b"(" + text("module") + b"NNNNtQ",
    "a view of a storage": b"("
    + text("storage")
    + name("torch.FloatStorage")
    + text("0")
    + text("cpu")
    + number(3)
    + b"(NNNttQ",
    "state of a tensor": tensor(whole(3), whole(1)) + b"}b",
    "a key two hundred thousand deep": b"}" + b")" + b"\x85" * DEEP + b"Ns",
    "a tensor as a key": b"}" + tensor(whole(3), whole(1)) + b"Ns",
}


@pytest.mark.parametrize("what", TENSORS)
def test_tensors_lie_within_their_numbers(what: str, refused: Callable[[bytes], str]) -> None:
    assert "damaged or cut short" in refused(with_pickle(TENSORS[what]))


@pytest.mark.parametrize(
    "wanted",
    [
        *("torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor"),
        *("torch._utils._rebuild_device_tensor_from_numpy", "torch._tensor._rebuild_from_type_v2"),
        *("torch.FloatTensor", "torch.jit._pickle.build_intlist", "argparse.Namespace"),
    ],
)
def test_other_makers_of_tensors_are_refused(wanted: str, refused: Callable[[bytes], str]) -> None:
    assert f"import {wanted};" in refused(with_pickle(name(wanted) + b")R"))


def test_few_numbers_cannot_make_many_tensors(refused: Callable[[bytes], str]) -> None:
    numbers = bytes(1 << 20)
    one = tensor(whole(1 << 18), whole(1), of=storage(1 << 18))
    data = with_pickle(one, b"q\x00" + b"0" + b"(" + one * 200 + b"t", numbers=numbers)
    assert "many times the file" in refused(data)


ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "compressed": (lambda parts: zipped(parts, zipfile.ZIP_DEFLATED), "save it again with torch"),
    "a big-endian computer's": (
        lambda parts: zipped({**parts, "archive/byteorder": b"big"}),
        "big-endian",
    ),
    "a program": (lambda parts: zipped({**parts, "archive/constants.pkl": b""}), "TorchScript"),
    "no pickle": (lambda parts: zipped({"archive/data/0": bytes(12)}), "no data.pkl"),
    "two pickles": (lambda parts: zipped({**parts, "b/data.pkl": b"N."}), "no data.pkl"),
    "no numbers": (
        lambda parts: zipped({n: d for n, d in parts.items() if "/data/" not in n}),
        "missing",
    ),
    "an empty one": (lambda parts: zipped({}), "damaged or cut short"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_are_as_torch_makes_them(what: str, refused: Callable[[bytes], str]) -> None:
    change, words = ARCHIVES[what]
    assert words in refused(change(members(saved({"a": torch.arange(3.0)}))))


def test_a_bomb_of_zeros_is_not_unpacked(refused: Callable[[bytes], str]) -> None:
    parts = {"m/data.pkl": b"\x80\x02N.", "m/data/0": bytes(1 << 24)}
    assert "compressed" in refused(zipped({**parts, "m/data.pkl": b" " * (1 << 24)}, 8))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_stands_once(refused: Callable[[bytes], str]) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for data in (b"\x80\x02N.", b"\x80\x02K\x01."):
            archive.writestr("m/data.pkl", data)
    assert "twice" in refused(file.getvalue())


def test_sizes_in_the_archives_list_are_checked(refused: Callable[[bytes], str]) -> None:
    data = with_pickle(tensor(whole(3), whole(1)))
    at = data.rindex(b"m/data/0") - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    for size in (1 << 30, (1 << 32) - 2):
        lying = bytearray(data)
        lying[at + 20 : at + 28] = struct.pack("<II", size, size)
        refused(bytes(lying))
    elsewhere = bytearray(data)
    elsewhere[at + 42 : at + 46] = struct.pack("<I", 7)
    assert "damaged or cut short" in refused(bytes(elsewhere))
    sum_of = bytearray(data)
    sum_of[at + 16 : at + 20] = struct.pack("<I", zlib.crc32(b"other"))
    assert "checksum" in refused(bytes(sum_of))


def test_the_older_form_is_checked_as_well(refused: Callable[[bytes], str]) -> None:
    data = saved({"a": torch.arange(3.0)}, zipped=False)
    for cut in (5, 60, len(data) - 1, len(data) - 12, len(data) - 20):
        assert "cut short" in refused(data[:cut])
    longer = data[:-20] + struct.pack("<q", 1 << 40) + data[-12:]
    assert "another length" in refused(longer)
    start = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001)]
    little, big = (pickle.dumps({"little_endian": kind}, protocol=2) for kind in (True, False))
    none, keys = b"\x80\x02N.", pickle.dumps(["0"], protocol=2)
    lone = b"\x80\x02" + tensor(whole(3), whole(1)) + b"."
    for parts, words in (
        ([*start, big, none], "big-endian"),
        ([*start, b"\x80\x02]."], "big-endian"),
        ([*start, little, none, keys], "numbers that no tensor has"),
        ([*start, little, lone, b"\x80\x02]."], "missing"),
        ([*start, little, lone, b"\x80\x02](]ue."], "damaged or cut short"),
        ([*start, little, b"\x80\x02}" + b")" + b"\x85" * DEEP + b"Ns."], "damaged or cut short"),
        ([b"\x80\x02K\x07."], "not what torch.save writes"),
    ):
        assert words in refused(b"".join(parts)), words


def test_what_is_no_torch_file(refused: Callable[[bytes], str], tmp_path: Path) -> None:
    for data in (
        b"",
        b"PK",
        b"PK\x03\x04",
        b"PK\x03\x04" * 99,
        b"PK\x05\x06" + bytes(18),
        b"\x1f\x8b",
    ):
        assert "cut short" in refused(data)
    (tmp_path / "folder.pt").mkdir()
    for read in (read_torch, read_tensors):
        with pytest.raises(InputError, match=r"folder\.pt: a folder"):
            read(tmp_path / "folder.pt")
