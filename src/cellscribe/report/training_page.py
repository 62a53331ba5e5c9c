"""Training runs as one HTML page and one picture: losses over steps, recipe, sessions.

One run is shown in full; several are drawn into the same figures, with the differences of their
recipes first. A report can be made while a run is training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cellscribe.errors import InputError
from cellscribe.escaping import escape
from cellscribe.report import html, losses
from cellscribe.report import run_tables as tables
from cellscribe.report.axes import need_matplotlib
from cellscribe.report.colours import PALETTE
from cellscribe.report.curves import MOST_POINTS, Level, Line, Values, lines_png, lines_svg
from cellscribe.report.figures import write_whole
from cellscribe.report.numbers import compact, decimals, hours, several, share
from cellscribe.report.run_tables import RunsByName
from cellscribe.report.tables import Table
from cellscribe.training.runs import Run, best, read_run, smooth, summarise, tokens_per_second
from cellscribe.training.runs import warnings as run_warnings
from cellscribe.writing import check_target

PARTS = {
    "regression": "Mean squared difference from the whole cell's scores; 1 if nothing is told.",
    "contrast": "InfoNCE of the two views of a cell, natural logarithm; 0 is a perfect match.",
}
"""Parts of the second objective, and what they are."""


def write_report(folders: Sequence[Path], out: Path | None = None) -> list[str]:
    """Report on runs: ``report.html`` and ``report.png``.

    Parameters
    ----------
    folders
        Folders of the runs.
    out
        Folder of the two files; the first run's if not given. Those of an earlier report are
        replaced.

    Returns
    -------
    list
        The warnings on the page.

    Raises
    ------
    InputError
        A folder is no run, one is named twice, there are too many, matplotlib
        is missing, or a file cannot be written.
    """
    need_matplotlib()
    runs = read_runs(folders)
    out = Path(folders[0] if out is None else out)
    for name in ("report.html", "report.png"):
        if (out / name).is_dir():
            raise InputError(f"{out / name} is a folder; remove it or name another with -o")
        check_target(out / name, None, overwrite=True)
    page, picture = render_page(runs), render_picture(runs)
    write_whole(out / "report.png", picture)
    write_whole(out / "report.html", page.encode())
    return warnings(runs)


def read_runs(folders: Sequence[Path]) -> dict[str, Run]:
    """Read runs by name: the end of their paths, as long as needed to be distinct.

    Raises
    ------
    InputError
        A folder is no run or named twice, or there are more runs than colours.
    """
    whole = [folder.resolve().parts for folder in map(Path, folders)]
    for place, parts in enumerate(whole):
        if parts in whole[:place]:
            raise InputError(f"{folders[place]} is named twice; name each run once")
    if len(whole) > len(PALETTE):
        raise InputError(
            f"{len(whole)} runs are more than colours can tell apart; name {len(PALETTE)} at most"
        )
    depth = 1
    while len({parts[-depth:] for parts in whole}) < len(whole):
        depth += 1
    return {
        "/".join(parts[-depth:]): read_run(folder)
        for parts, folder in zip(whole, folders, strict=True)
    }


def warnings(runs: RunsByName) -> list[str]:
    """List the warnings of the runs, with their names if there are several."""
    found = [
        f"{name}: {text}" if len(runs) > 1 else text
        for name, run in runs.items()
        for text in run_warnings(run)
    ]
    if differ := tables.unlike(runs):
        found.insert(0, f"The runs differ in {', '.join(differ)}: compare no loss between them.")
    return found


def render_picture(runs: RunsByName) -> bytes:
    """Draw the losses over steps as a PNG, with legend and the level of guessing."""
    return lines_png(
        losses.curves(runs),
        legend=losses.legend_lines(runs),
        title=_title(runs),
        subtitle=" · ".join(part for part in (_source(runs), losses.smoothing(runs)) if part),
        ylabel="masked-gene loss",
        levels=losses.guesses(runs),
    )


def render_page(runs: RunsByName) -> str:
    """Make the page's HTML.

    Raises
    ------
    InputError
        matplotlib is missing.
    """
    sections = [_loss(runs), _course(runs), _losses(runs), _recipe(runs), _sessions(runs)]
    return html.page(
        kind="training report",
        title=_title(runs),
        source=_source(runs),
        tiles=key_figures(runs),
        warnings=warnings(runs),
        body="\n".join(sections),
        css=["tables.css", "training.css"],
    )


def _title(runs: RunsByName) -> str:
    return f"{len(runs)} training runs" if len(runs) > 1 else f"Training run {next(iter(runs))}"


def _source(runs: RunsByName) -> str:
    if len(runs) > 1:
        return ", ".join(runs)
    header = next(iter(runs.values())).header
    return f"{header['preset']} on corpus {header['corpus']['name']} ({header['corpus']['hash']})"


def key_figures(runs: RunsByName) -> list[html.Tile]:
    """List the tiles."""
    summaries = {name: summarise(run) for name, run in runs.items()}
    if len(runs) > 1:
        total = sum(each.hours for each in summaries.values())
        tiles = [
            ("Runs", f"{len(runs)}", ""),
            ("Steps", f"{sum(each.steps for each in summaries.values()):,}", "of all runs"),
            (
                "Hours",
                hours(total),
                "of training, all runs",
            ),
        ]
        found = {name: lowest for name, run in runs.items() if (lowest := best(run))}
        if found and not tables.unlike(runs):
            name = min(found, key=lambda name: found[name][1])
            tiles.append(("Best val loss", f"{found[name][1]:.3f}", name))
        return tiles
    ((name, run),) = runs.items()
    each, lowest = summaries[name], best(run)
    devices = list(dict.fromkeys(str(s.get("device")) for s in run.header["sessions"]))
    return [
        ("Parameters", compact(run.header["parameters"]), tables.shape_text(run.header)),
        ("Steps", f"{each.steps:,}", f"of {run.planned:,}"),
        ("Cells seen", compact(each.cells), f"{run.train_cells:,} to train on"),
        ("Epochs", decimals(each.epochs, 2) or "–", "passes over the training cells"),
        ("Hours", hours(each.hours), f"on {', '.join(devices)}"),
        ("Tokens/s", decimals(each.tokens_per_second, 0) or "–", "in the median step"),
        (
            "Best val loss",
            "–" if lowest is None else f"{lowest[1]:.3f}",
            "none yet" if lowest is None else f"at step {lowest[0]:,}",
        ),
    ]


def _caption(runs: RunsByName) -> str:
    text = "Cross-entropy of the masked genes, natural logarithm. "
    if mean := losses.smoothing(runs):
        text += f"{mean[0].upper()}{mean[1:]}, with the single steps behind it in a "
        text += "lighter tone"
        crowded = any(len(run.step) > MOST_POINTS for run in runs.values())
        text += " (from the lowest to the highest of each stretch). " if crowded else ". "
    return text + (
        "Validation: a point each. Guessing: every gene equally likely. The published losses are "
        f"those of NVIDIA's sc-FM model card: {losses.OTHER}."
    )


def _loss(runs: RunsByName) -> str:
    lines, levels, text = (
        losses.curves(runs),
        [*losses.guesses(runs), *losses.published()],
        _loss_text(runs),
    )
    figures = [
        f'<div class="{kind}">'
        + lines_svg(
            lines,
            name=f"loss-{kind}",
            alt=f"Curves: loss over steps. {text}",
            ylabel="loss",
            size=size,
            levels=levels,
        )
        + "</div>"
        for kind, size in (("broad", (11, 4.8)), ("narrow", (4.4, 4)))
    ]
    body = f'<div class="card loss">\n{losses.legend(runs)}\n{"".join(figures)}\n'
    body += f'<p class="note">{escape(_caption(runs))}</p>\n</div>'
    return html.section("loss", "Loss over steps", text, body)


def _loss_text(runs: RunsByName) -> str:
    texts = []
    for name, run in runs.items():
        lowest, loss = best(run), smooth(run.loss, run.window)[-1]
        text = f"{name}: training" if len(runs) > 1 else "Training"
        text += f" loss {decimals(loss, 3) or 'not finite'} after {several(len(run.step), 'step')}"
        if lowest is not None:
            text += f", lowest on val {lowest[1]:.3f} at step {lowest[0]:,}"
        texts.append(text)
    return "; ".join(texts) + "."


def _course(runs: RunsByName) -> str:
    """Draw smaller figures: later losses, second objective, rate, gradient, throughput."""
    parts = [_part(runs, name, text) for name, text in PARTS.items()]
    cards = [_closer(runs), *parts, _rate(runs), _gradient(runs), _throughput(runs)]
    lead = "Colours and dashes as above."
    return html.section("course", "How it went", lead, html.pair([c for c in cards if c]))


def _small(title: str, text: str, lines: Sequence[Line], ylabel: str, **more: Any) -> str:
    name = title.lower().replace(" ", "-")
    figure = lines_svg(lines, name=name, alt=f"Curves: {title}. {text}", ylabel=ylabel, **more)
    return html.card(title, text, figure)


def _closer(runs: RunsByName) -> str:
    """Draw the loss without its first fall; nothing if the runs are too short."""
    start = max(len(run.step) for run in runs.values()) // 10
    lines = []
    for line in losses.curves(runs):
        late = line.x > start
        if late.any() and start:
            raw = None if line.raw is None else line.raw[late]
            lines.append(replace(line, x=line.x[late], y=line.y[late], raw=raw))
    if not lines:
        return ""
    text = f"The same curves from step {start + 1:,} on."
    return _small("Loss closer", text, lines, "loss")


def _part(runs: RunsByName, name: str, text: str) -> str:
    """Draw a part of the second objective; nothing if no run has it."""
    lines = [
        _smoothed(runs, place, run.objective[name])
        for place, run in enumerate(runs.values())
        if name in run.objective
    ]
    return _small(name.capitalize(), text, lines, name, from_zero=True) if lines else ""


def _rate(runs: RunsByName) -> str:
    lines = [
        Line(name=name, x=run.step, y=run.learning_rate, colour=_colour(runs, place))
        for place, (name, run) in enumerate(runs.items())
    ]
    peaks = [f"{run.learning_rate.max():.3g}" for run in runs.values()]
    text = f"Highest so far: {', '.join(peaks)}."
    return _small("Learning rate", text, lines, "rate", from_zero=True)


def _gradient(runs: RunsByName) -> str:
    lines, clipped = [], []
    for place, run in enumerate(runs.values()):
        norms = run.gradient_norm
        lines.append(_smoothed(runs, place, norms))
        clip = run.header["training"].get("clip", math.inf)
        clipped.append(share(int((norms > clip).sum()), len(norms)))
    clips = sorted({run.header["training"].get("clip", math.inf) for run in runs.values()})
    text = f"Smoothed as the loss; logarithmic axis. Clipped: {', '.join(clipped)} of the steps."
    levels = [Level(y=clip, text=f"clip {clip:g}", right=True) for clip in clips if clip < math.inf]
    return _small("Gradient norm", text, lines, "norm", levels=levels, log=True)


def _throughput(runs: RunsByName) -> str:
    lines, marks, medians = [], [], []
    for place, run in enumerate(runs.values()):
        lines.append(_smoothed(runs, place, tokens_per_second(run)))
        marks += [int(session["step"]) for session in run.header["sessions"] if session.get("step")]
        medians.append(f"{decimals(summarise(run).tokens_per_second, 0) or 'none'}")
    text = f"Tokens a second, smoothed as the loss; the median step: {', '.join(medians)}."
    marks = marks if len(runs) == 1 else []
    if marks:
        text += " Dotted lines: where the run was taken up again."
    return _small("Throughput", text, lines, "tokens/s", marks=marks, from_zero=True)


def _smoothed(runs: RunsByName, place: int, values: Values) -> Line:
    """Make the curve of one run, without single steps if there are several runs."""
    name, run = list(runs.items())[place]
    raw = values if len(runs) == 1 else None
    mean = smooth(values, run.window)
    return Line(name=name, x=run.step, y=mean, raw=raw, colour=_colour(runs, place))


def _colour(runs: RunsByName, place: int) -> str | None:
    return PALETTE[place] if len(runs) > 1 else None


def _losses(runs: RunsByName) -> str:
    parts = [html.table(tables.of_losses(runs), "Losses of each split")]
    if len(runs) > 1:
        summary = html.table(tables.of_summary(runs), "The runs")
        parts = [summary, '<h3 class="table">Each split</h3>', *parts]
    rows = [(f"guessing among {run.genes:,} genes", "every gene equally likely",
             f"{run.guessing:.2f}") for run in runs.values()]  # fmt: skip
    rows = [*dict.fromkeys(rows), *((name, losses.OTHER, f"{loss:.2f}") for name, loss in
            losses.PUBLISHED.items())]  # fmt: skip
    parts.append('<h3 class="table">To compare with</h3>')
    parts.append(
        html.table(Table(("Model", "What it is", "Loss"), tuple(rows), n_text=2), "Other losses")
    )
    validations = tables.of_validations(runs)
    if validations.rows:
        parts.append(html.folded(validations, "Every validation", "Every validation"))
    lead = "Lower is better. Of train, the loss at that step as it is drawn."
    return html.section("losses", "Losses", lead, "\n".join(parts))


def _recipe(runs: RunsByName) -> str:
    differ, same = tables.of_recipe(runs)
    if len(runs) == 1:
        return html.section("recipe", "Recipe", "", html.table(same, "Settings"))
    body = html.folded(same, "Settings that are the same", "What is the same in all")
    if differ.rows:
        body = html.table(differ, "Settings that differ") + "\n" + body
    lead = "What differs between the runs." if differ.rows else "All settings are the same."
    return html.section("recipe", "Recipe", lead, body)


def _sessions(runs: RunsByName) -> str:
    lead = "A run may be stopped and taken up again, also elsewhere; each part is a line."
    return html.section(
        "sessions", "Sessions", lead, html.table(tables.of_sessions(runs), "Sessions")
    )
