"""Matrix Market as NIST defines it; what lies in its header is refused before it costs memory."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from support.text_cells import DENSE, mtx, put, read, refusal, same_cells, tenx

from cellscribe.cells.readers import convert
from cellscribe.cells.readers.number_text import parse_entries, read_odd

FIRST = "%%MatrixMarket matrix coordinate integer general\n"


def parsed(text: bytes) -> list[float | None]:
    """Values of entries, by the loop or, where it leaves them, by `read_odd`."""
    n = text.count(b"\n") + 1
    rows, columns, values = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n)
    odd = np.empty((n, 3), np.int64)
    block = np.frombuffer(text, np.uint8)
    end, n, n_odd, _, _ = parse_entries(block, 9, 9, rows, columns, values, odd)
    assert end == 0
    found: list[float | None] = list(values[:n])
    for place, start, stop in odd[:n_odd]:
        found[place] = read_odd(text[start:stop])
    return found


@given(
    st.lists(
        st.floats(allow_nan=False).map(repr)
        | st.integers(-(10**25), 10**25).map(str)
        | st.from_regex(r"[+-]?[0-9]{0,18}\.[0-9]{1,18}(?:[eE][+-]?[0-9]{1,3})?", fullmatch=True),
        min_size=1,
    )
)
def test_numbers_are_those_of_python(numbers: list[str]) -> None:
    text = "".join(f"1 2 {number}\n" for number in numbers).encode()
    assert parsed(text) == [float(number) for number in numbers]


@pytest.mark.parametrize(
    "word", ["x", "1,5", "0x10", "1e", "1_000", "--1", "1.2.3", ".", "+", "e5", "1e5e5", "٣", "1f"]
)
def test_what_is_no_number(word: str) -> None:
    assert parsed(f"1 1 {word}\n".encode()) == [None]


@pytest.mark.parametrize("field", ["integer", "real"])
def test_what_scipy_writes(field: str, tmp_path: Path) -> None:
    text = io.BytesIO()
    scipy.io.mmwrite(
        text, sp.coo_matrix(DENSE.T), field=field, comment="made\nup", symmetry="general"
    )
    same_cells(put(tmp_path / "x", tenx() | {"matrix.mtx": text.getvalue()}))


HEAD = FIRST + "14 6 2\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not a Matrix Market file"),
        ("1 1 5\n", "is not a Matrix Market file"),
        ("%%MatrixMarket matrix array integer general\n14 6\n1\n", "dense .array. layout"),
        ("%%MatrixMarket matrix coordinate pattern general\n14 6 1\n1 1\n", "pattern"),
        ("%%MatrixMarket matrix coordinate complex general\n14 6 1\n1 1 1 0\n", "complex values"),
        ("%%MatrixMarket matrix coordinate integer symmetric\n6 6 1\n1 1 1\n", "is symmetric"),
        ("%%MatrixMarket vector coordinate integer general\n6 6 1\n1 1 1\n", "is not a Matrix"),
        (FIRST, "the line of sizes holds 'nothing'"),
        (FIRST + "14 6\n", "the line of sizes"),
        (FIRST + "14 6 -2\n", "the line of sizes"),
        (FIRST + "14 6 2.5\n", "the line of sizes"),
        (FIRST + f"14 6 {2**40}\n", "more than the file can hold"),
        (FIRST + f"{2**40} 6 1\n1 1 1\n", "larger than any matrix"),
        (FIRST + f"{10**30} 6 1\n1 1 1\n", "the line of sizes"),
        (FIRST + "0 0 0\n", "use files of one run"),
        (HEAD + "1 1 5\n15 1 5\n", "an index lies outside .*line 4: 15 1 5"),
        (HEAD + "1 1 5\n0 1 5\n", "an index lies outside"),
        (HEAD + f"1 1 5\n{2**40} 1 5\n", "an index lies outside"),
        (HEAD + "1 1 5\n1 -1 5\n", "line 4 has a row or column that is no whole number"),
        (HEAD + "1 1 5\n1.5 1 5\n", "line 4 has a row or column that is no whole number"),
        (HEAD + "1 1 5\n1 1\n", "line 4 has 2 fields"),
        (HEAD + "1 1 5\n1 1 5 6\n", "line 4 has 4 fields"),
        (HEAD + "1 1 5 0 0\n1 1 5 6 1\n", "spliced, unspliced and ambiguous"),
        (HEAD + "1 1 5\n1 1 five\n", "'five', a value after line 2, is no number"),
        (HEAD + "1 1 5\n1 1 2.5\n", "not whole numbers, though"),
        (HEAD + "1 1 5\n1 1 nan\n", "not whole numbers, though"),
        (HEAD + "1 1 5\n", "1 entries, but its header says 2"),
        (HEAD + "1 1 5\n2 2 1\n3 3 1\n", "more entries than the 2"),
        (HEAD + "1 1 5\n2 2 -1\n", "values below zero"),
        (HEAD.replace("integer", "real") + "1 1 5\n2 2 nan\n", "missing or infinite"),
        (HEAD.replace("integer", "real") + "1 1 5\n2 2 1e400\n", "missing or infinite"),
        (HEAD + "1 1 " + "5" * 100_000 + "\n", "is no number|above 2147483647|whole numbers"),
        (HEAD + "1" * (2 << 20), "a line is longer than 1 MB"),
        (HEAD + "1 1 5\n1 1 99999999999999999999\n", "above 2147483647"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_matrices_that_are_none(text: str, what: str, zipped: bool, tmp_path: Path) -> None:
    import re

    files = tenx()
    del files["matrix.mtx"]
    data = gzip.compress(text.encode(), 1) if zipped else text.encode()
    # an empty gzip file is larger than what it could say of itself
    message = refusal(put(tmp_path / "x", files | {f"matrix.mtx{'.gz' * zipped}": data}))
    assert re.search(what, message), message


def test_sizes_that_lie_cost_no_memory(tmp_path: Path) -> None:
    text = FIRST + f"{2**31 - 1} {2**31 - 1} 2\n1 1 1\n2 2 1\n"
    folder = put(tmp_path / "x", tenx(matrix_mtx=text))
    tracemalloc.start()
    try:
        assert "use files of one run" in refusal(folder)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_blocks_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cellscribe.cells.readers import text_files

    folder = put(tmp_path / "x", tenx(matrix_mtx=mtx(sep="\t", end="\r\n")))
    for size in (1, 2, 3, 7, 50):
        monkeypatch.setattr(text_files, "READ_BYTES", size)
        np.testing.assert_array_equal(read(folder)[0].to_numpy(), DENSE)


def test_a_matrix_that_changes_between_two_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "IN_MEMORY", 10)
    folder = put(tmp_path / "x", tenx())
    np.testing.assert_array_equal(read(folder)[0].to_numpy(), DENSE)
    bands = convert._bands

    def rewritten(indptr: np.ndarray) -> np.ndarray:
        put(folder, {"matrix.mtx": mtx(np.roll(DENSE, 1, axis=0).T)})
        return bands(indptr)

    monkeypatch.setattr(convert, "_bands", rewritten)
    assert "changed while it was read" in refusal(folder)
