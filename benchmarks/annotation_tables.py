"""Tables of the benchmark of labels: rows of figures to columns and texts."""

from __future__ import annotations

from typing import Any


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def within_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = [
        "study held out in parts",
        "reference cells",
        "side",
        "coverage expected",
        "reached",
        "accuracy of the called expected",
        "reached (lowest draw)",
        "macro F1",
        "Brier",
        "unknown recall",
    ]
    return {
        "columns": columns,
        "rows": [
            [
                row["study"],
                "all" if row["size"] is None else f"{row['size']:,}",
                row["side"],
                _share(row["expected_coverage"]),
                _share(row["coverage"]),
                _share(row["expected_accuracy_called"]),
                f"{_share(row['accuracy_called'])} ({_share(row['lowest_accuracy_called'])})",
                _share(row["macro_f1"]),
                _share(row["brier"]),
                _share(row["unknown_recall"]),
            ]
            for row in rows
        ],
    }


def across_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("accuracy", "probability", "macro_f1", "coverage", "accuracy_called", "brier")
    columns = [
        "reference to query",
        "side",
        "accuracy",
        "mean probability",
        "macro F1",
        "coverage",
        "accuracy of the called",
        "Brier",
        "unknown recall",
    ]
    return {
        "columns": columns,
        "rows": [
            [
                f"{row['reference']} to {row['query']}",
                row["side"],
                *(_share(row[key]) for key in (*keys, "unknown_recall")),
            ]
            for row in rows
        ],
    }


def shift_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    columns = ["reference: cells", "kind", "inside", "shifted", "outside", "far", "ratio"]
    return {
        "columns": columns,
        "rows": [
            [
                row["pair"],
                row["kind"],
                *(f"{row[each]} of {row['draws']}" for each in ("inside", "shifted", "outside")),
                _share(row["far"]),
                _share(row["ratio"]),
            ]
            for row in rows
        ],
    }


TABLES = {
    "annotation": within_table,
    "annotation_across": across_table,
    "annotation_shift": shift_table,
}
