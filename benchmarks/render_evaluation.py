"""Tables of README, docs and model cards that `cellscribe evaluate` left in benchmarks/evaluation.

`render_tables` puts them between its markers. Figures are those of the bundled model, its random
weights and the baselines, made by the functions that make the report of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cellscribe.errors import InputError
from cellscribe.evaluation.models import RANDOM
from cellscribe.evaluation.results import FOLDER, read_all
from cellscribe.report import evaluation_grids as grids
from cellscribe.report.evaluation_grids import Cell, Grid
from cellscribe.report.evaluation_page import averaged, notes, published
from cellscribe.report.evaluation_tables import DataTable, Row, TaskTables, best, tables

MODEL = "mini"
"""The bundled model, whose evaluation the pages show."""
NOT_DOWNSTREAM = ("mlm", "scaling", "performance")
BRACKETS = (
    "Mean over seeds, in brackets the 95 % interval; bold is the best, an arrow says which way is "
    "better."
)
PUBLISHED = ("Masked genes, as others have published them:", grids.markdown(published()))
"""Shown next to ours, never in one table with it."""


def how_good(parts: list[TaskTables]) -> str:
    """The model, its random weights, PCA-50 and the best baseline, on files that it never saw."""
    rows: list[tuple[Cell, ...]] = []
    for part in parts:
        if part.task.NAME not in ("scaling", "performance"):
            for data in part.tables:
                for headline in part.task.HEADLINES:
                    rows += _line(part, data, headline)
    if not rows:
        raise InputError(f"benchmarks/evaluation has no file that {MODEL} never saw; measure one")
    header = ("measured", "data", MODEL, RANDOM, "PCA-50", "best baseline", "which is")
    blocks = [grids.markdown(Grid(header, tuple(rows))), BRACKETS, *PUBLISHED]
    return "\n\n".join(blocks)


def _line(part: TaskTables, data: DataTable, headline: str) -> Iterator[tuple[Cell, ...]]:
    """Yield one line of `how_good`; none if the model has no figure, or saw the file."""
    metric = part.task.METRICS[headline]
    rows = {row.method: row for row in data.rows if headline in row.estimates}
    model, twin = rows.get(MODEL), rows.get(f"{MODEL}, {RANDOM}")
    if model is None or twin is None or model.seen:
        return

    def rank(row: Row) -> float:
        value = row.estimates[headline].value
        return value if metric.better == "higher" else -value

    strongest = max((row for row in rows.values() if row.kind == "baseline"), key=rank)
    shown = [model, twin, rows.get(part.task.PCA_BASELINE or ""), strongest]
    top = best({row.method: row.estimates[headline] for row in shown if row is not None}, metric)
    yield (
        Cell(f"{part.task.TITLE}: {grids.title(metric)}"),
        Cell(data.data),
        *(
            Cell(grids.NOTHING)
            if row is None
            else grids.figure(row.estimates[headline], metric.digits, best=row.method in top)
            for row in shown
        ),
        Cell(strongest.method),
    )


def card_accuracy(parts: list[TaskTables]) -> str:
    """Every method on every file, the headlines of each task that uses the model for something."""
    blocks = [BRACKETS]
    for part in parts:
        if part.task.NAME in NOT_DOWNSTREAM:
            continue
        for summary in part.summaries:
            metric = part.task.METRICS[summary.metric]
            blocks.append(f"**{part.task.TITLE}: {grids.title(metric)}**")
            blocks.append(grids.markdown(grids.of_summary(part, summary)))
            blocks += [averaged(part, summary)] if len(part.tables) > 1 else []
        seen = [f"{row.method}, {each.data}: {row.seen}." for each in part.tables
                for row in each.rows if row.seen]  # fmt: skip
        blocks += [f"{grids.MARK} {text}" for text in seen]
    return "\n\n".join([*blocks, *PUBLISHED])


def card_performance(parts: list[TaskTables]) -> str:
    """Speed and memory, as the task performance has them."""
    found = [part for part in parts if part.task.NAME == "performance"]
    if not found:
        raise InputError(
            f"benchmarks/evaluation has no result of the task performance; run cellscribe evaluate "
            f"{MODEL} --task performance"
        )
    blocks = [BRACKETS]
    for data in found[0].tables:
        blocks += [f"**{data.data}**", grids.markdown(grids.of_table(found[0], data))]
        blocks += notes(data)
    return "\n\n".join(blocks)


def by_corruption(parts: list[TaskTables]) -> str:
    """Loss of every method on masked, replaced and kept genes, and both headlines of the task."""
    blocks = []
    for part in (part for part in parts if part.task.NAME == "mlm"):
        for data in part.tables:
            split = grids.of_breakdowns(part, data)["by corruption"]
            blocks += [f"**{data.data}**", grids.markdown(split)]
    if not blocks:
        raise InputError(f"benchmarks/evaluation has no result of the task mlm for {MODEL}")
    return "\n\n".join(blocks)


EVALUATED: dict[str, Callable[[list[TaskTables]], str]] = {
    "how-good": how_good,
    "card-accuracy": card_accuracy,
    "card-performance": card_performance,
    "by-corruption": by_corruption,
}


def evaluated(name: str, folder: Path) -> str:
    """Fill a stretch from the evaluation in a folder, with where and when it was made."""
    results = read_all(folder / FOLDER)
    if name not in EVALUATED or not results:
        raise InputError(
            f"a page names evaluate:{name}, which has no result; measure it or remove the markers"
        )
    made = {
        key: ", ".join(sorted({str(each.made[key]) for each in results if key in each.made}))
        for key in ("cpu", "cellscribe", "date")
    }
    line = f"Measured on {made['cpu']}; cellscribe {made['cellscribe']}; {made['date']}."
    return f"{EVALUATED[name](tables(results))}\n\n{line}"
