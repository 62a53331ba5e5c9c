"""The page of a fine-tuned model: how good its labels are, label by label, and what else would do.

It begins with the verdict, whosever way to label these cells is best. Then the figures on held-out
cells, the groups that fared worst, a map, and what the baselines reach on the same folds. All of it
is made of `annotation.judged`; figures of the same cells are also in a page of cells that the model
labels later (`annotation_page`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from cellscribe.annotation.judged import Judged, Shown
from cellscribe.escaping import escape
from cellscribe.evaluation.scores import Estimate
from cellscribe.report import evaluation_grids as grids
from cellscribe.report import html
from cellscribe.report import label_figures as figures
from cellscribe.report.colours import PALETTE
from cellscribe.report.evaluation_figures import Look, dots_svg
from cellscribe.report.evaluation_grids import Cell, Grid
from cellscribe.report.numbers import several
from cellscribe.report.tables import Table
from cellscribe.report.umap import EXTRA, finite_rows, layout_of, umap_coordinates

CSS = ["tables.css", "training.css", "evaluation.css", "labels.css"]
NOTHING = "–"
FIGURES = (
    ("accuracy", "accuracy"),
    ("brier", "Brier"),
    ("error", "calibration error"),
    ("coverage", "coverage"),
    ("accuracy_called", "right among called"),
    ("roc_auc", "ROC AUC"),
    ("average_precision", "average precision"),
)
"""Of a comparison's rows, and their headings."""
HOW = (
    "Every way learnt from the same cells and was asked for the same held-out ones, each fold "
    "under temperature and threshold of the other folds. Macro F1 counts every label alike. In "
    "brackets: 95 % interval over resamples of groups and of cells within them; with few groups "
    "that is a guess. Within noise: the interval of the difference to the best holds 0."
)


def render_finetuned(
    judged: Sequence[Judged], *, title: str, source: str, facts: Mapping[str, str]
) -> str:
    """Make the page of a fine-tuned model.

    Parameters
    ----------
    judged
        The figures of each column of labels.
    title, source
        Heading, and names of the input files.
    facts
        Provenance, shown as a table.
    """
    body = []
    for number, each in enumerate(judged):
        if len(judged) > 1:
            body.append(f'<h2 class="task">{escape(each.metrics["label"])}</h2>')
        body += [
            verdict(each.metrics),
            html.warnings_box(cautions(each.metrics), f"w{number}"),
            html.tiles_box(tiles(each.metrics)),
            *sections(each.metrics, each.shown, f"t{number}"),
        ]
    body.append(html.section("facts", "How this was made", "", facts_table(facts)))
    return html.page(
        kind="fine-tuned model",
        title=title,
        source=source,
        tiles=[],
        warnings=[],
        body='<div class="labels evaluation">\n' + "\n".join(body) + "\n</div>",
        css=CSS,
    )


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say which way is best on these data, and what the saved one gives."""
    found, held_out = metrics["comparison"], metrics["held_out"]
    right = held_out["accuracy_called"]
    called = (
        "no held-out cell is called"
        if right is None
        else f"{held_out['coverage']:.0%} of held-out cells get a label, {right:.0%} of these right"
    )
    text = f"Saved here: {metrics['saved']}; {called}."
    if found["of_cells"] > found["learnt_from"]:
        text += (
            f" The comparison rests on {found['learnt_from']:,} of the {found['of_cells']:,} "
            "labelled cells, drawn at random."
        )
    for name, why in found["left_out"].items():
        text += f" Left out: {name} ({why})."
    return verdict_box(found["sentence"], text)


def verdict_box(sentence: str, more: str, *, bad: bool = False) -> str:
    """The first thing of a page: one plain sentence, and what belongs to it."""
    return (
        f'<div class="card verdict{" bad" if bad else ""}"><p><strong>{escape(sentence)}</strong>'
        f"</p><p>{escape(more)}</p></div>"
    )


def tiles(metrics: Mapping[str, Any]) -> list[html.Tile]:
    """Key figures of held-out cells."""
    found = metrics["held_out"]
    right, groups = found["accuracy_called"], found["groups"]
    made = [
        ("Labels", f"{len(found['labels']):,}", f"of {metrics['label']}"),
        ("Held-out cells", f"{found['cells']:,}", f"in {several(metrics['folds'], 'fold')}"),
        ("Macro F1", f"{found['macro_f1']:.3f}", "of the best label"),
        ("Called", f"{found['coverage']:.0%}", "the others are unknown"),
        ("Right", NOTHING if right is None else f"{right:.0%}", "of the called"),
    ]
    if groups:
        made.append(
            ("Worst group", f"{groups[0]['accuracy']:.0%}", f"right in {groups[0]['group']}")
        )
    return made


def cautions(metrics: Mapping[str, Any]) -> list[str]:
    """What to know before trusting the figures."""
    found = []
    if metrics["group"] is None:
        found.append(
            "No --group was given: cells of one donor stand on both sides of the folds, so these "
            "figures are too good for cells of a new donor."
        )
    if metrics["folds"] == 1:
        found.append(
            "One fold was held out, and temperature and threshold were chosen on the very cells "
            "that are judged here; --calibration-folds holds out more."
        )
    unseen = [row["label"] for row in metrics["held_out"]["labels"] if not row["support"]]
    if unseen:
        found.append(f"No held-out cell tells how well these are learnt: {', '.join(unseen)}.")
    return found


def sections(
    metrics: Mapping[str, Any], shown: Shown | None, key: str, *, map_shown: bool = True
) -> list[str]:
    """All figures of one column of labels; `key` begins the ids of its headings."""
    found = metrics["held_out"]
    colours = figures.label_colours(metrics["labelled"])
    made = [
        _confusion(found, colours, key),
        _labels(found, colours, key),
        _curves(found, colours, key),
        _groups(found, metrics["group"], key),
    ]
    if map_shown:
        made.append(map_section(shown, colours, f"{key}-map", "held-out probability"))
    made.append(_ways(metrics["comparison"], key))
    return [each for each in made if each]


def _confusion(found: Mapping[str, Any], colours: figures.Colours, key: str) -> str:
    names = [row["label"] for row in found["labels"]]
    lead = (
        "Held-out cells by the label that they have (rows) and the best label that they get, "
        "called or not (columns, by number), in percent of the row; below it the cells."
    )
    body = figures.confusion_html(names, found["confusion"], colours)
    worst = _mixed(names, found["confusion"])
    return html.section(f"{key}-confusion", "Confusion", lead, body + worst)


def _mixed(names: Sequence[str], counts: Sequence[Sequence[int]], most: int = 3) -> str:
    """Name the pairs that are mixed up most, by cells."""
    pairs = sorted(
        (
            (n, own, given)
            for own, row in enumerate(counts)
            for given, n in enumerate(row)
            if n and own != given
        ),
        key=lambda each: (-each[0], each[1:]),
    )
    if not pairs:
        return '<p class="note">No held-out cell got another best label than its own.</p>'
    told = "; ".join(
        f"{names[own]} called {names[given]}: {n:,} of {sum(counts[own]):,}"
        for n, own, given in pairs[:most]
    )
    return f'<p class="note">Mixed up most: {escape(told)}.</p>'


def _labels(found: Mapping[str, Any], colours: figures.Colours, key: str) -> str:
    header = (
        "Label", "cells", "precision", "recall", "F1", "called", "ROC AUC", "average precision",
    )  # fmt: skip
    keys = ("precision", "recall", "f1", "coverage", "roc_auc", "average_precision")
    ranked = sorted(found["labels"], key=lambda row: (not row["support"], row["f1"]))
    rows = []
    for row in ranked:
        cells = [
            NOTHING if row[name] is None or not row["support"] else f"{row[name]:.3f}"
            for name in keys
        ]
        cells[3] = NOTHING if row["coverage"] is None else f"{row['coverage']:.0%}"
        rows.append((row["label"], f"{row['support']:,}", *cells))
    text = html.table(Table(header, tuple(rows)), "Figures of each label")
    text = figures.with_swatches(text, [row["label"] for row in ranked], colours)
    lead = (
        "Of held-out cells, the label of the lowest F1 first. Precision, recall and F1 are those "
        "of the best label, called or not."
    )
    return html.section(f"{key}-labels", "Each label", lead, text)


def _curves(found: Mapping[str, Any], colours: figures.Colours, key: str) -> str:
    cards = [
        html.card(
            "What a probability means",
            "On the line, what was promised is what held. Bars: cells of each bin; lines: 95 % "
            "intervals.",
            figures.reliability_svg(found["reliability"]),
        )
    ]
    for kind, title in (("roc", "ROC"), ("pr", "Precision and recall")):
        if any(row[kind] for row in found["labels"]):
            text = "Each label against the rest, by its probability; the smallest areas in colour."
            cards.append(
                html.card(
                    title,
                    text,
                    figures.curves_svg(found, kind, colours),
                    figures.curves_legend(found, kind, colours),
                )
            )
    return html.section(f"{key}-curves", "How sure", "", html.pair(cards))


def _groups(found: Mapping[str, Any], group: str | None, key: str) -> str:
    groups = found["groups"]
    if not groups:
        return ""
    worst = groups[0]
    lead = (
        f"{group} {worst['group']} fared worst: {worst['accuracy']:.0%} of its "
        f"{several(worst['cells'], 'cell')} right, over all {found['accuracy']:.0%}."
    )
    header = (str(group), "cells", "right", "called", "right among called")
    rows = tuple(
        (
            row["group"],
            f"{row['cells']:,}",
            f"{row['accuracy']:.1%}",
            f"{row['coverage']:.1%}",
            NOTHING if row["accuracy_called"] is None else f"{row['accuracy_called']:.1%}",
        )
        for row in groups
    )
    more = len(groups) - figures.MOST_GROUPS
    text = "Share of right best labels, with 95 % intervals; the worst first."
    text += f" {several(more, 'better one')} not drawn." if more > 0 else ""
    table = Table(header, rows)
    body = html.pair(
        [
            html.card("Right, by group", text, figures.groups_svg(groups)),
            html.table(table, "Held-out groups")
            if more <= 0
            else html.folded(table, "Held-out groups"),
        ]
    )
    return html.section(f"{key}-groups", "Held-out groups", lead, body)


def map_section(
    shown: Shown | None, colours: figures.Colours, key: str, what: str, title: str = "Map"
) -> str:
    """Draw two maps of the same cells, by label and by probability, or say what they need."""
    if shown is None or not len(shown.names):
        return ""
    missing = [name for name in ("matplotlib", "umap") if find_spec(name) is None]
    if missing:
        lead = f"No map: it needs {missing[0]}; {EXTRA}."
        return html.section(key, title, lead, "")
    xy = umap_coordinates(shown.vectors)
    finite = finite_rows(xy)
    names = [name for name, there in zip(shown.names, finite, strict=True) if there]
    layout = layout_of(int(finite.sum()))
    lead = (
        f"{layout} of the vectors of {several(len(names), 'cell')}, for orientation only: "
        "distances between groups, their sizes and their shapes mean little."
    )
    cards = [
        html.card("By label", "Numbers are those of the list below.",
                  *figures.map_by_label(xy[finite], names, colours)),
        html.card(f"By {what}", "Of the best label.",
                  *figures.map_by_share(xy[finite], shown.probability[finite], what)),
    ]  # fmt: skip
    return html.section(key, title, lead, html.pair(cards))


def _ways(found: Mapping[str, Any], key: str) -> str:
    ways = found["ways"]
    estimates = {
        row["name"]: Estimate(value=row["macro_f1"], low=row["low"], high=row["high"])
        for row in ways
    }
    looks = {
        row["name"]: Look(
            colour="var(--accent)" if row["kind"] == "ours" else PALETTE[1], dashes="none"
        )
        for row in ways
    }
    cells = {name: grids.figure(each, 3) for name, each in estimates.items()}
    texts = {name: f"{cell.text} {cell.interval}".strip() for name, cell in cells.items()}
    told = "; ".join(f"{name} {each}" for name, each in texts.items())
    dots = dots_svg(estimates, looks, texts, alt=f"Macro F1 of each way: {told}")
    text = "Green: ours; orange: without a model. Lines are the 95 % intervals."
    lead = (
        f"{several(found['cells'], 'held-out cell')} of {several(found['folds'], 'fold')}"
        + (f", {several(found['groups'], 'group')}" if found["groups"] else "")
        + ". "
        + HOW
    )
    body = [
        html.pair([html.card("Macro F1", text, dots)]),
        grids.html(_grid(found), "Ways to label these cells"),
        grids.folded(_by_label(ways), "F1 of each label"),
    ]
    return html.section(f"{key}-ways", "Ours and the baselines", lead, "\n".join(body))


def _grid(found: Mapping[str, Any]) -> Grid:
    rows = []
    for row in found["ways"]:
        name = row["name"] + (" (saved)" if row["saved"] else "")
        top = row["name"] == found["best"]
        gap = "best" if top else ("within noise" if row["within_noise"] else "worse")
        interval = "" if top else f"[{-row['gap_high']:.3f}, {-row['gap_low']:.3f}]"
        estimate = Estimate(value=row["macro_f1"], low=row["low"], high=row["high"])
        learnt = row["learnt_from"]
        rows.append(
            (
                Cell(name),
                grids.figure(estimate, 3, best=top),
                Cell(gap, interval),
                Cell(NOTHING if row["seconds"] is None else f"{row['seconds']:,.1f}"),
                *(
                    Cell(NOTHING if row[name] is None else f"{row[name]:.3f}")
                    for name, _ in FIGURES
                ),
                Cell(f"{learnt or found['learnt_from']:,}"),
            )
        )
    header = (
        "Way", "macro F1", "next to the best", "seconds", *(title for _, title in FIGURES),
        "labelled cells",
    )  # fmt: skip
    return Grid(header, tuple(rows))


def _by_label(ways: Sequence[Mapping[str, Any]]) -> Grid:
    labels = list(ways[0]["f1"])
    rows = []
    for label in labels:
        top = max(row["f1"][label] for row in ways)
        rows.append(
            (
                Cell(label),
                *(Cell(f"{row['f1'][label]:.3f}", best=row["f1"][label] == top) for row in ways),
            )
        )
    return Grid(("Label", *(row["name"] for row in ways)), tuple(rows))


def facts_table(facts: Mapping[str, str]) -> str:
    """Tabulate provenance."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<table><tbody>{rows}</tbody></table>"
