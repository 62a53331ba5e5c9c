"""Tables of an evaluation as grids of figures with intervals; their Markdown and HTML.

Both are written from the same cells, so that the two reports agree. All text is escaped here. The
best figure of a column is bold; figures of a model that may know the data are marked instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cellscribe.escaping import escape
from cellscribe.evaluation.scores import Estimate, Metric
from cellscribe.report.evaluation_tables import DataTable, Summary, TaskTables, best
from cellscribe.report.numbers import decimals
from cellscribe.report.tables import plain

NOTHING, MARK = "–", "†"
MOST_COLUMNS = 6
"""Largest number of columns of a breakdown; one with more has its methods as columns."""
MOST_POINTS = 40
"""Largest number of points of a curve that is also shown as a table."""


@dataclass(frozen=True)
class Cell:
    """A figure with its interval, or words."""

    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table; the first column is words, the others are figures unless all are words."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: bool = False


def figure(estimate: Estimate | None, digits: int, *, best: bool = False) -> Cell:
    """Write a figure with its interval; one that does not vary has none."""
    if estimate is None or not math.isfinite(estimate.value):
        return Cell(NOTHING)
    bounds = (estimate.low, estimate.high)
    text = decimals(estimate.value, digits)
    # rounding errors of a mean that does not vary are no interval
    if all(math.isclose(bound, estimate.value, rel_tol=1e-9) for bound in bounds):
        return Cell(text, best=best)
    return Cell(text, f"[{', '.join(decimals(each, digits, NOTHING) for each in bounds)}]", best)


def of_table(part: TaskTables, table: DataTable) -> Grid:
    """Tabulate methods by metrics, without metrics that no method has."""
    shown = {name for row in table.rows for name in row.estimates}
    metrics = {name: metric for name, metric in part.task.METRICS.items() if name in shown}
    unseen = [row for row in table.rows if not row.seen]
    tops = {
        name: best(
            {row.method: row.estimates[name] for row in unseen if name in row.estimates}, metric
        )
        for name, metric in metrics.items()
    }
    rows = tuple(
        (
            Cell(marked(row.method, bool(row.seen))),
            *(
                figure(row.estimates.get(name), metric.digits, best=row.method in tops[name])
                for name, metric in metrics.items()
            ),
        )
        for row in table.rows
    )
    return Grid(("Method", *(title(metric) for metric in metrics.values())), rows)


def of_summary(part: TaskTables, summary: Summary) -> Grid:
    """Tabulate a headline metric of methods by data, and its average over unseen data."""
    metric = part.task.METRICS[summary.metric]
    data = tuple(table.data for table in part.tables)
    tops = {
        name: best(
            {
                method: of[name]
                for method, of in summary.figures.items()
                if name in of and (method, name) not in summary.marked
            },
            metric,
        )
        for name in data
    }
    top = best(summary.averages, metric)
    rows = []
    for method, of in summary.figures.items():
        cells = [
            _marked_figure(
                figure(of.get(name), metric.digits, best=method in tops[name]),
                (method, name) in summary.marked,
            )
            for name in data
        ]
        if has_average(summary):
            cells.append(figure(summary.averages.get(method), metric.digits, best=method in top))
        rows.append((Cell(method), *cells))
    header = ("Method", *data)
    if has_average(summary):
        header += (f"average of {len(summary.averaged)}",)
    return Grid(header, tuple(rows))


def has_average(summary: Summary) -> bool:
    """Tell whether a summary has a column of averages; with one data set it has none."""
    data = {name for of in summary.figures.values() for name in of}
    return len(data) > 1 and bool(summary.averaged)


def of_breakdowns(part: TaskTables, table: DataTable) -> dict[str, Grid]:
    """Tabulate the breakdowns of each method's figures, by title."""
    titles = dict.fromkeys(title for row in table.rows for title in row.breakdowns)
    made = {}
    for name in titles:
        rows = {row.method: row.breakdowns[name] for row in table.rows if name in row.breakdowns}
        names = {row.method: marked(row.method, bool(row.seen)) for row in table.rows}
        made[name] = _split({names[method]: of for method, of in rows.items()})
    return made


def of_curves(table: DataTable) -> dict[str, Grid]:
    """Tabulate curves by title, their points as rows, methods as columns."""
    titles = dict.fromkeys(title for row in table.rows for title in row.curves)
    made = {}
    for name in titles:
        curves = {
            marked(row.method, bool(row.seen)): row.curves[name]
            for row in table.rows
            if name in row.curves
        }
        first = next(iter(curves.values()))
        points = {
            method: dict(zip(curve.x, curve.y, strict=True)) for method, curve in curves.items()
        }
        x = sorted({at for of in points.values() for at in of})
        if len(x) > MOST_POINTS:
            continue
        digits = _digits(value for of in points.values() for value in of.values())
        rows = tuple(
            (
                Cell(f"{at:,g}"),
                *(Cell(decimals(of.get(at, math.nan), digits, NOTHING)) for of in points.values()),
            )
            for at in x
        )
        made[name] = Grid((first.x_label, *(f"{method}" for method in curves)), rows)
    return made


def title(metric: Metric) -> str:
    """Return a column's heading: the metric and which direction is better."""
    arrow = {"higher": " ↑", "lower": " ↓", None: ""}[metric.better]
    return f"{metric.title}{arrow}"


def marked(name: str, seen: bool) -> str:
    """Return a method's name, marked if it may know the data."""
    return f"{name} {MARK}" if seen else name


def markdown(grid: Grid) -> str:
    """Write a grid as a Markdown table."""
    lines = [
        [plain(text) for text in grid.header],
        [":--", *[":--" if grid.words else "--:"] * (len(grid.header) - 1)],
        *([_markdown_cell(cell) for cell in row] for row in grid.rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def html(grid: Grid, label: str) -> str:
    """Write a grid as an HTML table that scrolls sideways by itself."""
    head = "".join(
        f'<th scope="col"{_class(place, grid)}>{escape(text)}</th>'
        for place, text in enumerate(grid.header)
    )
    body = "\n".join(
        "<tr>" + "".join(_html_cell(cell, place, grid) for place, cell in enumerate(row)) + "</tr>"
        for row in grid.rows
    )
    kind = "wide" if grid.words else "wide numbers"
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def folded(grid: Grid, label: str) -> str:
    """Write a grid as HTML that is shown on demand."""
    return f"<details><summary>{escape(label)}</summary>\n{html(grid, label)}\n</details>"


def _marked_figure(cell: Cell, seen: bool) -> Cell:
    return Cell(marked(cell.text, seen), cell.interval, cell.best)


def _split(rows: Mapping[str, Mapping[str, Estimate]]) -> Grid:
    """Tabulate a breakdown; many parts become rows."""
    columns = list(dict.fromkeys(name for of in rows.values() for name in of))
    digits = _digits(each.value for of in rows.values() for each in of.values())
    if len(columns) <= MOST_COLUMNS:
        return Grid(
            ("Method", *columns),
            tuple(
                (Cell(method), *(figure(of.get(name), digits) for name in columns))
                for method, of in rows.items()
            ),
        )
    return Grid(
        ("", *rows),
        tuple(
            (Cell(name), *(figure(of.get(name), digits) for of in rows.values()))
            for name in columns
        ),
    )


def _digits(values: Iterable[float]) -> int:
    """Choose the decimals: none for whole numbers, few for large ones."""
    finite = [abs(value) for value in values if math.isfinite(value)]
    if all(value == round(value) for value in finite):
        return 0
    return 1 if max(finite) >= 100 else 3


def _markdown_cell(cell: Cell) -> str:
    text = plain(cell.text)
    text = f"**{text}**" if cell.best else text
    return f"{text} {cell.interval}" if cell.interval else text


def _html_cell(cell: Cell, place: int, grid: Grid) -> str:
    text = escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.best else text
    text += f" <small>{cell.interval}</small>" if cell.interval else ""
    if place == 0:
        return f'<th scope="row">{text}</th>'
    return f"<td{_class(place, grid)}>{text}</td>"


def _class(place: int, grid: Grid) -> str:
    return ' class="figure"' if place and not grid.words else ""
