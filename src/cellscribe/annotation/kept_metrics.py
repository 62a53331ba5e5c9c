"""``metrics.json`` of a fine-tuned model, read again: anyone may have written it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

from cellscribe.annotation.judged import FORMAT, METRICS
from cellscribe.config.checked import Share, check_value
from cellscribe.config.files import read_json
from cellscribe.errors import InputError
from cellscribe.model.checksums import check_sum

AGAIN = "fine-tune or copy the model again"


class LabelKeys(TypedDict):
    """A row of `scorecard.score_labels`."""

    label: str
    precision: Share
    recall: Share
    f1: Share
    support: int
    coverage: Share | None
    roc_auc: Share | None
    average_precision: Share | None
    roc: list[list[Share]]
    pr: list[list[Share]]


class BinKeys(TypedDict):
    """A row of `scorecard.reliability`."""

    low: Share
    high: Share
    cells: int
    promised: Share | None
    held: Share | None


class GroupKeys(TypedDict):
    """A row of `scorecard.score_groups`."""

    group: str
    cells: int
    accuracy: Share
    coverage: Share
    accuracy_called: Share | None


class FigureKeys(TypedDict):
    """Figures of a model or a baseline on held-out cells."""

    cells: int
    accuracy: Share
    macro_f1: Share
    brier: float
    error: float
    coverage: Share
    accuracy_called: Share | None
    roc_auc: Share | None
    average_precision: Share | None


class ScoreKeys(FigureKeys):
    """Of `scorecard.score`."""

    labels: list[LabelKeys]
    confusion: list[list[int]]
    reliability: list[BinKeys]
    roc: list[list[Share]]
    pr: list[list[Share]]
    groups: list[GroupKeys]


class WayKeys(FigureKeys):
    """A row of `compare.compare`."""

    name: str
    kind: Literal["ours", "baseline"]
    saved: bool
    low: float
    high: float
    seconds: float | None
    learnt_from: int | None
    f1: dict[str, float]
    gap: float
    gap_low: float
    gap_high: float
    within_noise: bool


class ComparisonKeys(TypedDict):
    """Of `compare.compare`."""

    best: str
    sentence: str
    ways: list[WayKeys]
    cells: int
    learnt_from: int
    folds: int
    groups: int
    of_cells: int
    left_out: dict[str, str]


class ColumnKeys(TypedDict):
    """Of a column of labels."""

    label: str
    group: str | None
    saved: str
    labelled: dict[str, int]
    folds: int
    held_out: ScoreKeys
    comparison: ComparisonKeys


class MetricsKeys(TypedDict):
    """The whole file."""

    format: str
    version: int
    columns: list[ColumnKeys]


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Read what a fine-tuned model keeps; empty where it keeps nothing.

    Raises
    ------
    InputError
        The file is damaged, or of another version.
    """
    path = directory / METRICS
    if not path.is_file():
        return []
    check_sum(path)
    found = read_json(path, fix=AGAIN)
    if found.get("format") != FORMAT or found.get("version") != 1:
        raise InputError(f"{path}: no {FORMAT} of version 1; {AGAIN}")
    kept: list[dict[str, Any]] = check_value(MetricsKeys, found, str(path))["columns"]
    for each in kept:
        names = [row["label"] for row in each["held_out"]["labels"]]
        square = each["held_out"]["confusion"]
        wrong = set(names) != set(each["labelled"]) or [len(row) for row in square] != [
            len(names)
        ] * len(names)
        points = [row[kind] for row in each["held_out"]["labels"] for kind in ("roc", "pr")]
        if wrong or any(len(point) != 2 for curve in points for point in curve):
            raise InputError(f"{path} contradicts itself; {AGAIN}")
    return kept
