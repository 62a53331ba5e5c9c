"""Entries are put in the places that were counted for them, or nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cellscribe.cells.readers import convert
from cellscribe.cells.readers.matrices import Entries
from cellscribe.errors import InputError

CELLS = np.array([2, 0, 1, 2, 0, 2], np.int32)
GENES = np.array([0, 1, 2, 1, 0, 2], np.int32)
VALUES = np.arange(1, 7)


def entries(*passes: tuple[Any, Any, Any]) -> Entries:
    """A stream that gives other entries each time that it is read."""
    left = list(passes)

    def chunks(with_values: bool) -> Iterator[tuple[Any, Any, Any]]:
        yield left.pop(0) if len(left) > 1 else left[0]

    return Entries(
        shape=(3, 3),
        n_entries=len(CELLS),
        dtype=np.dtype(np.int64),
        where="f: X",
        chunks=chunks,
        sample=lambda: VALUES,
    )


@pytest.fixture(params=["in memory", "on disk"])
def limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "on disk":
        monkeypatch.setattr(convert, "IN_MEMORY", 1)
        monkeypatch.setattr(convert, "BAND", 2)


def rows(stream: Entries, folder: Path) -> np.ndarray:
    with ExitStack() as stack:
        found = convert.to_rows(stream, stack, folder, lambda line: None)
        return found.read(0, 3).toarray()


def test_entries_become_rows(limits: None, tmp_path: Path) -> None:
    expected = np.zeros((3, 3))
    expected[CELLS, GENES] = VALUES
    np.testing.assert_array_equal(rows(entries((CELLS, GENES, VALUES)), tmp_path), expected)


@pytest.mark.parametrize("cell", [-1, 3, 2**31 - 1])
def test_a_cell_outside_the_matrix(cell: int, limits: None, tmp_path: Path) -> None:
    wrong = CELLS.copy()
    wrong[3] = cell
    with pytest.raises(InputError, match="f: X: an entry lies outside the matrix"):
        rows(entries((wrong, GENES, VALUES)), tmp_path)


@pytest.mark.parametrize("gene", [-1, 3])
def test_a_gene_outside_the_matrix(gene: int, limits: None, tmp_path: Path) -> None:
    wrong = GENES.copy()
    wrong[3] = gene
    with pytest.raises(InputError, match="f: X/indices: an index lies outside"):
        rows(entries((CELLS, wrong, VALUES)), tmp_path)


def test_fewer_genes_or_values_than_cells(limits: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside the matrix"):
        rows(entries((CELLS, GENES[:3], VALUES)), tmp_path)


def test_values_that_are_wanting(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="outside the matrix"):
        rows(entries((CELLS, GENES, VALUES[:2])), tmp_path)


@pytest.mark.parametrize("second", [CELLS[::-1] * 0, np.full(6, 2, np.int32)])
def test_a_file_that_changes_between_the_passes(
    second: np.ndarray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(convert, "IN_MEMORY", 1)
    monkeypatch.setattr(convert, "BAND", 2)
    stream = entries((CELLS, GENES, VALUES), (second, GENES, VALUES))
    with pytest.raises(InputError, match="f: X changed while it was read"):
        rows(stream, tmp_path)


def test_a_disk_that_is_too_small_is_left_empty(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(convert, "IN_MEMORY", 1)
    monkeypatch.setattr(convert.shutil, "disk_usage", lambda path: SimpleNamespace(free=95))
    with pytest.raises(InputError, match=r"has 0\.0 GB free.*set TMPDIR to a larger disk"):
        rows(entries((CELLS, GENES, VALUES)), tmp_path)
    assert list(tmp_path.iterdir()) == []
