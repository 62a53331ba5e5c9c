"""Made-up results of `cellscribe evaluate`, of two made-up tasks with few columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cellscribe.evaluation.results import Result, write
from cellscribe.evaluation.scores import Curve, Estimate, Kind, Metric, Scores

HOSTILE = "<script>document.title='owned'<|script><img src=x onerror=alert(1)>\"'& *x* |y| `z` 日"
FACTS = {"name": "mini", "family": "bert", "hash": "0123", "parameters": 8_446_293}
LOSSES = ("uniform", "unigram")
PROBES = ("counts + logistic regression", "PCA + forest")
TASKS = {
    "mlm": SimpleNamespace(
        NAME="mlm",
        TITLE="Masked genes",
        ABOUT="Loss of `masked` genes where\n  n < 5 (a source, 2020).",
        METRICS={
            "loss": Metric(title="loss", about="Cross-entropy.", better="lower"),
            "top": Metric(title="top-1", about="Share right.", better="higher", digits=2),
            "tokens": Metric(title="tokens", about="How many.", digits=0),
        },
        HEADLINES=("loss",),
        BASELINES=LOSSES,
        PCA_BASELINE=None,
        EXTRA_BASELINES={},
    ),
    "celltype": SimpleNamespace(
        NAME="celltype",
        TITLE="Cell types",
        ABOUT="Types read off.",
        METRICS={
            "f1": Metric(title="macro-F1", about="Mean of F1.", better="higher"),
            "accuracy": Metric(title="accuracy", about="Share right.", better="higher"),
        },
        HEADLINES=("f1",),
        BASELINES=PROBES,
        PCA_BASELINE=PROBES[0],
        EXTRA_BASELINES={"scVI + regression": "scvi"},
    ),
}


def around(value: float, width: float = 0.01) -> Estimate:
    return Estimate(value=value, low=value - width, high=value + 2 * width)


def result(
    task: str,
    data: str,
    method: str,
    kind: Kind,
    seed: int = 0,
    *,
    breakdowns: dict[str, dict[str, float]] | None = None,
    curves: dict[str, Curve] | None = None,
    settings: Any = "these",
    **rest: Any,
) -> Result:
    names = list(TASKS[task].METRICS)
    estimates = rest.pop("estimates", {}) or {
        name: around(1.0 + 0.1 * place + 0.01 * seed) for place, name in enumerate(names)
    }
    identity = rest.pop("identity", {"problem": {"settings": settings}, "model": method})
    return Result(
        task=task,
        data=data,
        method=method,
        kind=kind,
        seed=seed,
        scores=Scores(estimates=estimates, breakdowns=breakdowns or {}, curves=curves or {}),
        identity=identity,
        model=None if kind == "baseline" else rest.pop("model", FACTS),
        **rest,
    )


def whole(
    task: str, data: str, values: Mapping[str, Sequence[float]] | None = None, **rest: Any
) -> list[Result]:
    """Every row that a table must have; a value a seed for each method's headline."""
    kinds: dict[str, Kind] = {"mini": "model", "mini, random weights": "random"}
    kinds |= dict.fromkeys(TASKS[task].BASELINES, "baseline")
    made = []
    for place, (method, kind) in enumerate(kinds.items()):
        for seed, value in enumerate((values or {}).get(method, (0.5 + 0.1 * place, 0.5))):
            estimates = dict.fromkeys(TASKS[task].HEADLINES, around(value))
            made.append(result(task, data, method, kind, seed, estimates=estimates, **rest))
    return made


def folder_of(path: Path, results: Sequence[Result]) -> Path:
    (path / "results").mkdir(parents=True)
    for each in results:
        write(path / "results", each)
    return path


def rows_of(folder: Path) -> list[list[str]]:
    """Rows of all tables of the page, as text."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    rows = re.findall("<tr>(.*?)</tr>", html)
    cells = [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]
