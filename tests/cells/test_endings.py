"""Names of sources without their endings."""

from __future__ import annotations

import pytest

from cellscribe.cells.readers.endings import stem


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.h5ad", "a"),
        ("/x/b.1.zarr/", "b.1"),
        ("c.tar.gz", "c"),
        ("folder", "folder"),
        ("d.h5", "d"),
        ("s3://bucket/e.v2.h5ad", "e.v2"),
        ("counts.csv.gz", "counts"),
        (".h5ad", ".h5ad"),
    ],
)
def test_the_ending_of_the_format_goes(name: str, expected: str) -> None:
    assert stem(name) == expected
