"""The report of `cellscribe evaluate`: ``report.md`` and an HTML page of the results in a folder.

Both are made from the JSON files only, so they can be made again anywhere. `evaluation_tables`
decides which tables may be shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError
from cellscribe.escaping import escape
from cellscribe.evaluation.results import FOLDER, Result, read_all
from cellscribe.report import evaluation_grids as grids
from cellscribe.report import html, losses
from cellscribe.report.evaluation_figures import Look, dots_svg, legend, lines_svg, looks
from cellscribe.report.evaluation_grids import MARK, Cell, Grid
from cellscribe.report.evaluation_tables import DataTable, Summary, TaskTables, tables
from cellscribe.report.evaluation_verdict import NOTE, TITLE, Verdict, verdicts
from cellscribe.report.figures import write_whole
from cellscribe.report.numbers import value_text
from cellscribe.report.tables import plain

__all__ = ["render_markdown", "render_page", "tables", "write_report"]

HOW = (
    "Every table has its baselines and, where weights matter, the same network with random weights "
    "in it, measured on the same cells, folds and seeds. A figure is the mean over the seeds; in "
    "brackets stands its 95 % interval (or what the task says in its place), as wide as the seeds "
    "together reach. A figure without brackets does not vary. The best of a column is bold; an "
    "arrow says which way is better. "
    f"{MARK} marks a model that may have seen the data in its training: it is kept out of what is "
    "bold and out of averages. No average mixes different tasks."
)
PUBLISHED = "as published, other data and vocabulary, not comparable"
SOURCE = "NVIDIA's sc-FM model card"


def write_report(folder: Path) -> list[str]:
    """Write ``report.md`` and ``report.html`` of an evaluation; earlier ones are replaced.

    Parameters
    ----------
    folder
        Folder of the evaluation, with its ``results``.

    Returns
    -------
    list of str
        The sentence on each model that both begin with, see `evaluation_verdict`.

    Raises
    ------
    InputError
        There are no results, one cannot be read, a table lacks rows that it must have (see
        `tables`), or the files cannot be written.
    """
    folder = Path(folder)
    results = read_all(folder / FOLDER)
    if not results:
        raise InputError(f"{folder / FOLDER}: no results; run cellscribe evaluate first")
    parts = tables(results)
    text, page = render_markdown(parts, results), render_page(parts, results)
    write_whole(folder / "report.md", text.encode())
    write_whole(folder / "report.html", page.encode())
    return [verdict.sentence for verdict in verdicts(parts)]


def render_markdown(parts: Sequence[TaskTables], results: Sequence[Result]) -> str:
    """Render the report as Markdown; text from results is escaped."""
    blocks = [f"# {plain(_title(results))}", *_markdown_verdicts(verdicts(parts)), HOW]
    for part in parts:
        blocks += _markdown_task(part)
    for heading, grid in _origin(results).items():
        blocks += [f"## {heading}", grids.markdown(grid)]
    return "\n\n".join(blocks) + "\n"


def render_page(parts: Sequence[TaskTables], results: Sequence[Result]) -> str:
    """Render the report as one HTML page that loads nothing."""
    body = [*_page_verdicts(verdicts(parts)), f'<p class="note">{escape(HOW)}</p>']
    body += [_page_task(part) for part in parts]
    body += [
        html.section(_key(heading), heading, "", grids.html(grid, heading))
        for heading, grid in _origin(results).items()
    ]
    return html.page(
        kind="evaluation",
        title=_title(results),
        source=", ".join(dict.fromkeys(table.data for part in parts for table in part.tables)),
        tiles=_tiles(parts, results),
        warnings=_warnings(parts),
        body='<div class="evaluation">\n' + "\n".join(body) + "\n</div>",
        css=["tables.css", "training.css", "evaluation.css"],
    )


def published() -> Grid:
    """Tabulate the published losses, which must not appear in a table with ours."""
    rows = tuple(
        (Cell(name), Cell(f"{loss:.2f}"), Cell(PUBLISHED), Cell(SOURCE))
        for name, loss in losses.PUBLISHED.items()
    )
    return Grid(("Model", "Loss of masked genes", "What it is", "Source"), rows, words=True)


def averaged(part: TaskTables, summary: Summary) -> str:
    """Name the data over which a summary averages."""
    data = summary.averaged
    if not grids.has_average(summary):
        return "No average: no data set has a figure of every method and is new to every model."
    left = [table.data for table in part.tables if table.data not in data]
    text = f"Average over {', '.join(data)}"
    return f"{text}, not over {', '.join(left)}." if left else f"{text}."


def notes(table: DataTable) -> list[str]:
    """List the notes under a table: sizes, seeds, marks, and what is missing."""
    sizes = [f"{_words(name)} {value_text(value)}" for name, value in table.about.items()]
    seeds = ", ".join(map(str, table.seeds))
    found = ["; ".join([*sizes, f"seeds {seeds}"]) + "."]
    found += [f"{MARK} {row.method}: {row.seen}." for row in table.rows if row.seen]
    return [*found, *table.notes]


def _title(results: Sequence[Result]) -> str:
    names = dict.fromkeys(each.method for each in results if each.kind == "model")
    return f"Evaluation of {', '.join(names)}" if names else "Evaluation of baselines"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _key(text: str) -> str:
    return text.lower().replace(" ", "-")


def _columns(part: TaskTables) -> Iterator[tuple[str, str]]:
    """Yield each metric's heading and its description."""
    for metric in part.task.METRICS.values():
        which = f" ({metric.better} is better)" if metric.better else ""
        yield metric.title, f"{which}: {metric.about}"


def _markdown_verdicts(found: Sequence[Verdict]) -> Iterator[str]:
    if found:
        yield f"## {TITLE}"
    for verdict in found:
        yield f"**{plain(verdict.sentence)}**"
        if verdict.comparisons:
            yield grids.markdown(verdict.grid)
    if any(verdict.comparisons for verdict in found):
        yield NOTE


def _page_verdicts(found: Sequence[Verdict]) -> Iterator[str]:
    body = []
    for verdict in found:
        body.append(f'<p class="verdict">{escape(verdict.sentence)}</p>')
        if verdict.comparisons:
            body.append(grids.html(verdict.grid, f"{verdict.model} and PCA-50"))
    if any(verdict.comparisons for verdict in found):
        body.append(f'<p class="note">{escape(NOTE)}</p>')
    if body:
        yield html.section("verdict", TITLE, "", "\n".join(body))


def _markdown_task(part: TaskTables) -> Iterator[str]:
    yield f"## {plain(part.task.TITLE)}"
    yield " ".join(part.task.ABOUT.split())
    yield "\n".join(f"- **{plain(title)}**{about}" for title, about in _columns(part))
    for summary in _summaries(part):
        yield f"### {plain(_summary_title(part, summary))}"
        yield grids.markdown(grids.of_summary(part, summary))
        yield plain(averaged(part, summary))
    for table in part.tables:
        yield f"### {plain(table.data)}"
        yield grids.markdown(grids.of_table(part, table))
        yield "\n\n".join(plain(text) for text in notes(table))
        for title, grid in _further(part, table).items():
            yield f"#### {plain(title)}"
            yield grids.markdown(grid)
    if part.task.NAME == "mlm":
        yield "### Published losses"
        yield grids.markdown(published())


def _summaries(part: TaskTables) -> tuple[Summary, ...]:
    """Return the summaries; none where a single table says it all."""
    return part.summaries if len(part.tables) > 1 else ()


def _summary_title(part: TaskTables, summary: Summary) -> str:
    return f"All data: {part.task.METRICS[summary.metric].title}"


def _further(part: TaskTables, table: DataTable) -> dict[str, Grid]:
    return grids.of_breakdowns(part, table) | grids.of_curves(table)


def _page_task(part: TaskTables) -> str:
    task, known = part.task, looks(part.kinds)
    columns = "".join(
        f"<li><b>{escape(title)}</b>{_prose(about)}</li>" for title, about in _columns(part)
    )
    body = [
        f'<p class="lead">{_prose(" ".join(task.ABOUT.split()))}</p>',
        "<details><summary>What the columns are</summary>"
        f'<ul class="columns">{columns}</ul></details>',
    ]
    for summary in _summaries(part):
        title = _summary_title(part, summary)
        body.append(f'<h3 class="data">{escape(title)}</h3>')
        body.append(grids.html(grids.of_summary(part, summary), f"{task.TITLE}, {title}"))
        body.append(f'<p class="note">{escape(averaged(part, summary))}</p>')
    for table in part.tables:
        body += _page_table(part, table, known)
    if task.NAME == "mlm":
        body.append('<h3 class="data">Published losses</h3>')
        body.append(grids.html(published(), "Published losses"))
    return html.section(f"task-{task.NAME}", task.TITLE, "", "\n".join(body))


def _page_table(part: TaskTables, table: DataTable, known: dict[str, Look]) -> Iterator[str]:
    yield f'<h3 class="data">{escape(table.data)}</h3>'
    yield grids.html(grids.of_table(part, table), f"{part.task.TITLE}, {table.data}")
    yield "".join(f'<p class="note">{escape(text)}</p>' for text in notes(table))
    cards = [card for name in part.task.HEADLINES for card in _dots(part, table, name, known)]
    cards += _lines(table, known)
    if cards:
        yield html.pair(cards)
    for title, grid in _further(part, table).items():
        yield grids.folded(grid, title)


def _dots(part: TaskTables, table: DataTable, name: str, known: dict[str, Look]) -> Iterator[str]:
    """Draw a headline metric as a dot per method, if any method has it."""
    metric = part.task.METRICS[name]
    rows = [row for row in table.rows if name in row.estimates]
    if not rows:
        return
    figures = {grids.marked(row.method, bool(row.seen)): row.estimates[name] for row in rows}
    cells = {method: grids.figure(each, metric.digits) for method, each in figures.items()}
    texts = {method: f"{cell.text} {cell.interval}".strip() for method, cell in cells.items()}
    summary = "; ".join(f"{method} {text}" for method, text in texts.items())
    figure = dots_svg(
        figures,
        {shown: known[row.method] for shown, row in zip(figures, rows, strict=True)},
        texts,
        alt=f"{metric.title} of each method: {summary}",
    )
    better = f"{metric.better[0].upper()}{metric.better[1:]} is better. " if metric.better else ""
    yield html.card(metric.title, f"{better}Lines are the 95 % intervals.", figure)


def _lines(table: DataTable, known: dict[str, Look]) -> Iterator[str]:
    titles = dict.fromkeys(title for row in table.rows for title in row.curves)
    for title in titles:
        curves = {row.method: row.curves[title] for row in table.rows if title in row.curves}
        first = next(iter(curves.values()))
        text = f"{first.y_label} over {first.x_label}"
        figure = lines_svg(curves, known, alt=f"{title}: {text} for {', '.join(curves)}")
        yield html.card(title, f"{text}, mean over seeds.", legend(curves, known), figure)


def _tiles(parts: Sequence[TaskTables], results: Sequence[Result]) -> list[html.Tile]:
    kinds = {each.method: each.kind for each in results}
    n_models = list(kinds.values()).count("model")
    data = {table.data for part in parts for table in part.tables}
    seeds = sorted({seed for part in parts for table in part.tables for seed in table.seeds})
    return [
        ("Models", f"{n_models}", "besides their random weights"),
        ("Baselines", f"{list(kinds.values()).count('baseline')}", "of all tasks"),
        ("Tasks", f"{len(parts)}", ", ".join(part.task.NAME for part in parts)),
        ("Data sets", f"{len(data)}", ""),
        ("Seeds", f"{len(seeds)}", ", ".join(map(str, seeds))),
    ]


def _warnings(parts: Sequence[TaskTables]) -> list[str]:
    found = [
        f"{row.method} may know {table.data}: {row.seen}."
        for part in parts
        for table in part.tables
        for row in table.rows
        if row.seen
    ]
    found += [
        f"{part.task.TITLE}, {table.data}: {note}"
        for part in parts
        for table in part.tables
        for note in table.notes
        if note.startswith("Left out")
    ]
    return list(dict.fromkeys(found))


def _origin(results: Sequence[Result]) -> dict[str, Grid]:
    """Tabulate the models, and how the results were made, by heading."""
    facts = {each.method: each.model for each in results if each.model}
    made: dict[str, dict[str, None]] = {}
    for result in results:
        for name, value in result.made.items():
            made.setdefault(name, {})[value_text(value)] = None
    origin = {"Models": _facts(facts)} if facts else {}
    if made:
        rows = tuple(
            (Cell(_words(name)), Cell(", ".join(sorted(each)))) for name, each in made.items()
        )
        origin["How this was made"] = Grid(("What", "Value"), rows, words=True)
    return origin


def _facts(facts: dict[str, dict[str, Any]]) -> Grid:
    """Tabulate facts of the models; models are columns, because some facts are sentences."""
    names = dict.fromkeys(name for each in facts.values() for name in each)
    rows = tuple(
        (
            Cell(_words(name)),
            *(
                Cell(value_text(each[name]) if name in each else grids.NOTHING)
                for each in facts.values()
            ),
        )
        for name in names
        if name != "name"
    )
    return Grid(("Fact", *facts), rows, words=True)


def _prose(text: str) -> str:
    """Escape text of this program; text in backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
