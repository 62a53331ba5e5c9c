"""Tables of the benchmark of labels: rows of figures to columns and texts."""

from __future__ import annotations

from typing import Any


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def within_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row a study, size of the reference and side."""
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
            if not _same_as_all(row, rows)
        ],
    }


def _same_as_all(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Whether a size is more than a study has, so that its row is that of all cells."""
    return row["size"] is not None and row | {"size": None} in rows


ACROSS = {
    "accuracy": "accuracy",
    "probability": "mean probability",
    "macro_f1": "macro F1",
    "brier": "Brier",
    "coverage": "coverage",
    "accuracy_called": "accuracy of the called",
    "unknown_recall": "unknown recall",
}
"""Figures of a pair, and their names."""


def across_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row a pair; of the two scalings of genes the one that has more cells right."""
    pairs = dict.fromkeys((row["reference"], row["query"]) for row in rows)
    found = []
    for reference, query in pairs:
        here = [row for row in rows if (row["reference"], row["query"]) == (reference, query)]
        ours = next(row for row in here if row["side"] == "annotate --reference, --align auto")
        genes = max(
            (row for row in here if "genes" in row["side"]), key=lambda row: row["accuracy"]
        )
        both = (f"{_share(ours[key])} / {_share(genes[key])}" for key in ACROSS)
        found.append([f"{reference} to {query}", *both])
    columns = ["ours / genes", *ACROSS.values()]
    return {"columns": columns, "rows": found}


def shift_table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row a pair, with how many draws got which verdict."""
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
