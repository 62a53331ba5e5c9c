"""Pickles put together by hand, each of a kind that crashes or fills an unpickler that obeys."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellscribe.errors import InputError
from cellscribe.families import pickle_machine
from cellscribe.families.unpickle import load_pickle, read_pickle

PROTO, STOP = b"\x80\x04", b"."
OBJECTS = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3ft"
"""State of a dtype of Python objects: its flags say that bytes are pointers."""


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def name(path: str) -> bytes:
    module, _, leaf = path.rpartition(".")
    return b"c" + f"{module}\n{leaf}\n".encode()


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + b"(" + b"".join(arguments) + b"tR"


def whole(*parts: bytes) -> bytes:
    return PROTO + b"".join(parts) + STOP


def dtype(kind: str, state: bytes = b"") -> bytes:
    made = call("numpy.dtype", text(kind), b"\x89", b"\x88")
    sizes = number(-1) * 2
    return made + (state or b"(K\x03" + text("<") + b"NNN" + sizes + b"K\x00t") + b"b"


def array(shape: bytes, kind: bytes, raw: bytes, order: bytes = b"\x89") -> bytes:
    made = call("numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\x00t", b"C\x01b")
    return (
        made + b"(K\x01" + shape + kind + order + b"B" + struct.pack("<I", len(raw)) + raw + b"tb"
    )


def scalar(kind: bytes, raw: bytes) -> bytes:
    return call("numpy.core.multiarray.scalar", kind, b"C" + bytes([len(raw)]) + raw)


def test_honest_ones_are_read() -> None:
    """So that the refusals below are not of the bytes that all have in common."""
    found = load_pickle(whole(array(b"(K\x02K\x01t", dtype("f8"), bytes(16))), "a.pkl")
    np.testing.assert_array_equal(found, np.zeros((2, 1)))
    assert load_pickle(whole(scalar(dtype("i2"), b"\x07\x00")), "a.pkl") == 7


KINDS = {
    "objects": dtype("O", OBJECTS),
    "objects by state": dtype("f8", OBJECTS),
    "records": dtype(
        "V8", b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + number(8) + b"K\x01K\x00t"
    ),
    "records by state": dtype(
        "f8", b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}" + number(8) + b"K\x01K\x00t"
    ),
    "a sub-array": dtype(
        "f8",
        b"(K\x03" + text("<") + dtype("f8") + b"K\x02\x85\x86NN" + number(16) + b"K\x08K\x00t",
    ),
    "another size": dtype("f8", b"(K\x03" + text("<") + b"NNN" + number(1 << 20) + b"K\x08K\x00t"),
    "a negative size": dtype("U1", b"(K\x03" + text("<") + b"NNN" + number(-8) + b"K\x04K\x08t"),
    "data of its own": dtype(
        "f8", b"(K\x04" + text("<") + b"NNN" + number(-1) * 2 + b"K\x00}" + text("a") + b"Nst"
    ),
    "a strange order": dtype("f8", b"(K\x03" + text("I") + b"NNN" + number(-1) * 2 + b"K\x00t"),
    "no state": call("numpy.dtype", text("f8"), b"\x89", b"\x88"),
    "state that is no tuple": call("numpy.dtype", text("f8"), b"\x89", b"\x88") + b"]b",
    "state twice": dtype("f8") + OBJECTS + b"b",
    "texts of a gigabyte": dtype("U268435456"),
    "times": dtype("M8[ns]"),
    "a pointer": dtype("P"),
    "commas": dtype("f8,O"),
    "a list": call("numpy.dtype", b"]" + text("f8") + b"a", b"\x89", b"\x88"),
    "no text": call("numpy.dtype", b"K\x08"),
}

ARRAYS = {
    **{f"a kind of {kind}": array(b"(K\x01t", data, bytes(8)) for kind, data in KINDS.items()},
    **{f"a number of {kind}": scalar(data, b"A" * 8) for kind, data in KINDS.items()},
    "more than its bytes": array(b"(J\xff\xff\xff\x7ft", dtype("f8"), bytes(8)),
    "less than its bytes": array(b"(K\x01t", dtype("f8"), bytes(16)),
    "a product that overflows": array(
        b"(" + number(1 << 30) * 4 + b"t",
        dtype("f8"),
        bytes(8),
    ),
    "a negative length": array(b"(" + number(-1) + b"t", dtype("f8"), bytes(8)),
    "a shape of texts": array(b"(" + text("a") + b"t", dtype("f8"), bytes(8)),
    "a shape that is a list": array(b"]K\x01a", dtype("f8"), bytes(8)),
    "forty dimensions": array(b"(" + b"K\x01" * 40 + b"t", dtype("f8"), bytes(8)),
    "a kind that is a text": array(b"(K\x01t", text("f8"), bytes(8)),
    "objects for numbers": call(
        "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\x00t", b"C\x01b"
    )
    + b"(K\x01K\x01\x85"
    + dtype("f8")
    + b"\x89](NNetb",
    "letters that are none": array(
        b"(K\x01t", dtype("U1", b"(K\x03" + text("<") + b"NNNK\x04K\x04K\x08t"), b"\xff" * 4
    ),
    "truth that is neither": array(b"(K\x01t", dtype("b1"), b"\x07"),
    "a buffer that is short": call(
        "numpy._core.numeric._frombuffer",
        b"\x96" + struct.pack("<Q", 8) + bytes(8),
        dtype("f8"),
        b"K\x02\x85",
        text("C"),
    ),
    "a buffer of objects": call(
        "numpy._core.numeric._frombuffer",
        b"\x96" + struct.pack("<Q", 8) + b"A" * 8,
        dtype("O", OBJECTS),
        b"K\x01\x85",
        text("C"),
    ),
    "a number of too few bytes": scalar(dtype("f8"), b"\x00"),
    "an array before its content": call(
        "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\x00t", b"C\x01b"
    ),
    "an array in itself": call(
        "numpy.core.multiarray._reconstruct", name("numpy.ndarray"), b"(K\x00t", b"C\x01b"
    )
    + b"q\x00(K\x01K\x01\x85"
    + dtype("f8")
    + b"\x89h\x00tb",
    "a class of its own": call(
        "numpy.core.multiarray._reconstruct", name("builtins.set"), b"(K\x00t"
    ),
    "the class itself": call("numpy.ndarray", b"K\x05"),
    "state of a class": name("numpy.ndarray") + b"}b",
    "a subclass": name("numpy.ndarray") + b")\x81",
}

DEEP = 150_000
NESTED = {
    "a key of tuples": b"}" + b")" + b"\x85" * DEEP + b"Ns",
    "a member of tuples": b"\x8f(" + b")" + b"\x85" * DEEP + b"\x90",
    "a frozen set of tuples": b"(" + b")" + b"\x85" * DEEP + b"\x91",
    "a set made of tuples": call("builtins.frozenset", b"](" + b")" + b"\x85" * DEEP + b"e"),
    "a table made of tuples": call(
        "collections.OrderedDict", b"](](" + b")" + b"\x85" * DEEP + b"Nee"
    ),
    "tuples": b")" + b"\x85" * DEEP,
    "lists": b"]" * 100_000 + b"a" * 99_999,
    "tables": b"}" + (text("a") + b"}") * 5_000 + b"s" * 5_000,
    "frozen sets": b"(" * 1000 + b"\x91" * 1000,
    "itself": b"]q\x00h\x00a",
    "itself, two steps on": b"]q\x00(]q\x01h\x00ae",
    "doubled forty times": b"]" + b"q\x000h\x00h\x00\x86" * 40,
    "doubled as a key": b"}K\x01K\x02\x86" + b"q\x000h\x00h\x00\x86" * 40 + b"Ns",
    "deep by shared parts": b"](" + b")q\x00" + b"h\x00\x85q\x00" * 100 + b"e",
}

SIZES = {
    "bytes": b"B\xff\xff\xff\x7fabc",
    "long bytes": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
    "long text": b"\x8d" + struct.pack("<Q", 1 << 40) + b"abc",
    "text": b"X\xff\xff\xff\xffabc",
    "an array of bytes": b"\x96" + struct.pack("<Q", 1 << 40) + b"abc",
    "old text": b"T\xff\xff\xff\x7fabc",
    "an integer": b"\x8b" + struct.pack("<i", 1 << 30) + b"abc",
    "a negative integer": b"\x8b" + struct.pack("<i", -1),
    "an integer of a kilobyte": b"\x8b" + struct.pack("<i", 1024) + b"\x7f" * 1024,
    "a decimal of many digits": b"L" + b"9" * 4000 + b"L\n",
    "a decimal of very many digits": b"I" + b"9" * 100_000 + b"\n",
    "a bytearray by number": call("builtins.bytearray", number(1 << 30)),
    "bytes by number": call("builtins.bytes", number(1 << 30)),
}

STEPS = {
    "a value kept elsewhere": b"Pa\n",
    "a tuple kept elsewhere": text("storage") + b"\x85Q",
    "a buffer kept elsewhere": b"\x97",
    "a read-only buffer": b"\x97\x98",
    "an extension": b"\x82\x01",
    "a longer extension": b"\x83\x01\x00",
    "the longest extension": b"\x84\x01\x00\x00\x00",
    "an instance": b"(ibuiltins\nset\n",
    "an object": b"(" + name("builtins.set") + b"o",
    "an object with names": name("builtins.set") + b")}\x92",
    "a copy of the last value": b"]2a",
    "an empty stack": b"0",
    "a list of nothing": b"a",
    "no mark": b"t",
    "what was never noted": b"h\x07",
    "two values": b"NN",
    "nothing": b"",
    "an end before a mark": b"(]0e",
    "content for a number": b"K\x01Nb",
    "content for a list": b"]Nb",
    "content for a table": b"}}b",
    "members for a number": b"K\x01(K\x01e",
    "keys for a list": b"](NNu",
    "a key without a value": b"}(Nu",
    "a key that stands twice": b"}(K\x01NK\x01Nu",
    "a list as a key": b"}(]Nu",
    "an array as a key": b"}" + array(b"(K\x01t", dtype("f8"), bytes(8)) + b"Ns",
    "a complex key": b"}" + call("builtins.complex", b"G" + bytes(8), b"G" + bytes(8)) + b"Ns",
    "a long integer as a key": b"}\x8a\x0a" + b"\x7f" * 10 + b"Ns",
    "a call of a number": b"K\x01)R",
    "a call with a list": name("builtins.set") + b"]R",
    "a call with too much": call("builtins.complex", b"K\x01" * 5),
    "state of a table that is no table": call("collections.OrderedDict") + b"]b",
    "another encoding": call("_codecs.encode", text("a"), text("rot13")),
    "pairs of three": call("collections.OrderedDict", b"](K\x01K\x02K\x03\x87e"),
    "a protocol of the future": b"\x80\xff\x80\xff",
    "an unknown step": b"\xff",
    "a frame of any length, then nothing": b"\x95" + b"\xff" * 8,
    "text that is none": b"X\x01\x00\x00\x00\xff",
    "a quote too few": b"S'abc\n",
}

NAMES = (
    *("os.system", "builtins.eval", "builtins.getattr", "builtins.object", "builtins.list"),
    *("functools.partial", "operator.attrgetter", "copyreg._reconstructor", "copyreg.__newobj__"),
    *("numpy.core.multiarray.fromfile", "numpy.load", "numpy.dtypes.Float64DType", "numpy.void"),
    *("pickle.loads", "torch.load", "torch.Tensor", "torch._utils._rebuild_tensor_v2"),
    *("collections.defaultdict", "collections.UserDict", "builtins.type", "builtins.__import__"),
)


def line_of(data: bytes) -> str:
    with pytest.raises(InputError) as error:
        load_pickle(data, "genes.pkl")
    line = str(error.value)
    assert "\n" not in line and line.isprintable() and len(line) < 400
    assert line.startswith("genes.pkl: ")
    return line


@pytest.mark.parametrize("group", [ARRAYS, SIZES, STEPS], ids=["arrays", "sizes", "steps"])
def test_what_nobody_wrote_is_refused_in_a_line(group: dict[str, bytes]) -> None:
    for what, data in group.items():
        assert "damaged pickle" in line_of(whole(data)), what


@pytest.mark.parametrize("what", NESTED)
def test_nesting_is_bounded_before_anything_descends(what: str) -> None:
    """Among them: a key 150,000 deep, whose hash is what ends an unpickler that obeys."""
    line = line_of(whole(NESTED[what]))
    assert any(word in line for word in ("nested", "holds itself", "key", "shared")), line


@pytest.mark.parametrize("wanted", NAMES)
def test_names_off_the_list_are_refused_and_named(wanted: str) -> None:
    assert f"import {wanted};" in line_of(whole(name(wanted), b")R"))
    module, _, leaf = wanted.rpartition(".")
    assert f"import {wanted};" in line_of(whole(text(module), text(leaf), b"\x93"))


def test_what_a_file_calls_itself_does_not_reach_the_terminal() -> None:
    line = line_of(whole(b"c" + b"\x1b[2J" * 99 + b"\nx\n"))
    assert "\x1b" not in line


def test_sizes_that_lie_take_no_memory() -> None:
    tracemalloc.start()
    for data in SIZES.values():
        line_of(whole(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_few_bytes_cannot_ask_for_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "OPERATIONS", 10_000)
    noted = b"T" + struct.pack("<i", 50_000) + b"a" * 50_000 + b"q\x000"
    for data in (
        b"\x8f0" * 2_000 + b"N",
        b"(" + b"]" * 2_000 + b"l",
        b"N0" * 6_000 + b"N",
        noted + b"(" + call("_codecs.encode", b"h\x00", text("latin1")) * 50 + b"l",
        b"(" + b"N" * 2_000 + b"lq\x000(" + call("builtins.bytearray", b"h\x00") * 50 + b"l",
    ):
        assert "operations" in line_of(whole(data)) or "no bytes" in line_of(whole(data))
    assert load_pickle(whole(b"N0" * 100 + b"N"), "a.pkl") is None


@given(
    value=st.dictionaries(
        st.text() | st.integers(-(2**63), 2**63 - 1) | st.tuples(st.booleans(), st.binary()),
        st.lists(st.floats(allow_nan=False) | st.binary()) | st.frozensets(st.integers(0, 9)),
    ),
    protocol=st.integers(0, pickle.HIGHEST_PROTOCOL),
    place=st.integers(0, 1 << 20),
    byte=st.integers(0, 255),
)
@settings(max_examples=100, deadline=None)
def test_any_changed_byte_gives_a_value_or_a_line(
    value: dict[Any, Any], protocol: int, place: int, byte: int
) -> None:
    data = bytearray(pickle.dumps([value, np.arange(3), np.float32(2)], protocol=protocol))
    found = load_pickle(bytes(data), "a.pkl")
    assert found[0] == value and found[2] == 2 and list(found[1]) == [0, 1, 2]
    data[place % len(data)] = byte
    try:
        load_pickle(bytes(data), "a.pkl")
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i4").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["ENSG1", "é"]),
        np.array([b"a", b"bc"]),
        np.array([True, False]),
        np.zeros((0, 3), "f2"),
        np.array(3 + 2j),
        np.str_("gene"),
        np.bool_(True),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_numpys_own_are_read_as_numpy_reads_them(value: Any, protocol: int) -> None:
    found = load_pickle(pickle.dumps((value, value), protocol=protocol), "a.pkl")
    for part in found:
        assert part.dtype == value.dtype and part.shape == value.shape
        np.testing.assert_array_equal(part, value)


def test_what_python_2_wrote_is_read() -> None:
    old = b"(dp0\nS'ENSG1'\np1\nF2.5\nsS'ENSG2'\np2\nI1\ns."
    assert load_pickle(old, "a.pkl") == {"ENSG1": 2.5, "ENSG2": 1}
    raw = "\x00\x00\x00\x00\x00\x00\xf0?"
    old = pickle.dumps(np.float64(1.0), protocol=2)
    assert load_pickle(old, "a.pkl") == np.frombuffer(raw.encode("latin1"), "<f8")[0]


def test_ordered_tables_keep_their_order_and_lose_torchs_notes() -> None:
    value: OrderedDict[str, int] = OrderedDict(b=1, a=2)
    value._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    found = load_pickle(pickle.dumps(value), "a.pkl")
    assert type(found) is OrderedDict and list(found.items()) == [("b", 1), ("a", 2)]
    assert not vars(found)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder.pkl").mkdir()
    (tmp_path / "loop.pkl").symlink_to("loop.pkl")
    for path, words in (("folder.pkl", "a folder"), ("loop.pkl", "cannot be read")):
        with pytest.raises(InputError, match=words) as error:
            read_pickle(tmp_path / path)
        assert "\n" not in str(error.value)


def test_our_reader_takes_no_path_around_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own unpickler is not used at all."""

    def never(*_: Any, **__: Any) -> Callable[..., Any]:
        raise AssertionError("pickle itself was asked")

    for reader in ("Unpickler", "loads", "load", "_Unpickler"):
        monkeypatch.setattr(pickle, reader, never)
    assert load_pickle(whole(b"K\x01"), "a.pkl") == 1
    assert io.BytesIO(whole(b"N")).read(2) == PROTO
