"""Numbers as text."""

from __future__ import annotations

import pytest

from cellscribe.report.numbers import rounded, share


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 9, "0%"),
        (9, 9, "100%"),
        (1, 10_000, "<0.1%"),
        (9_999, 10_000, ">99.9%"),
        (1, 3, "33.3%"),
    ],
)
def test_shares_are_whole_only_where_exact(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_numbers_are_short() -> None:
    assert [rounded(x) for x in (0.0, 3.0, 1234567.5, 0.123456)] == [
        "0",
        "3",
        "1,234,568",
        "0.1235",
    ]
