"""README of a fine-tuned model, from what was measured on held-out cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cellscribe.escaping import plain
from cellscribe.model.heads import Head
from cellscribe.model.several_heads import NumberHead, name_of

FIGURES = {
    "cells": ("cells", ",d"),
    "accuracy": ("accuracy of the best label", ".3f"),
    "macro_f1": ("macro F1 of the best label", ".3f"),
    "error": ("expected calibration error", ".3f"),
    "coverage": ("share of cells that get a label", ".3f"),
    "accuracy_called": ("accuracy of these", ".3f"),
}
"""Of `Calls`, as the README has them."""
NUMBER_SIDES = {
    "model": "this model",
    "ridge": "ridge regression on log-normalised genes (50 principal components)",
    "mean": "mean of the cells that were learnt from",
}
"""What a number is predicted by."""


def card(base: str, heads: Sequence[Head | NumberHead], licence: str | None = None) -> str:
    """Write the README of a model fine-tuned from `base`, whose licence is `licence`."""
    facts, several = heads[0].about, len(heads) > 1
    first = heads[0]
    names = ", ".join(plain(name_of(head)) for head in heads)
    of = first.of if isinstance(first, Head) else "cells"
    verb = "annotate DATA" if of == "cells" else "genes CELLS"
    learnt = f"learnt {names}." if several else f"learnt {names} from {_n_learnt(first):,} {of}."
    lines = [
        f"# {plain(base)}, fine-tuned on {names}",
        "",
        f"{_trained(facts, several)} {learnt} "
        f"Apply it with `cellscribe {verb} --model THIS_FOLDER -o OUT.csv`.",
        "",
        *(
            [f"**Licence of the weights that it began from: {plain(licence)}**", ""]
            if licence
            else []
        ),
    ]
    for head in heads:
        level = "##"
        if several:
            lines += [f"## {plain(name_of(head))}", ""]
            level = "###"
        lines += _measured(head, level)
        if not several:
            lines += _trials(facts.get("trials", []))
        lines += _learnt(head, level)
    if several:
        lines += _trials(facts.get("trials", []))
    lines += [
        "## Sources",
        "",
        *(
            f"- {plain(source['name'])} ({source['cells']:,} cells"
            + (f", SHA-256 {source['hash']}…)" if source["hash"] else ")")
            for source in facts["sources"]
        ),
        f"- model: {plain(facts['model']['name'])} (hash {facts['model']['hash']})",
        "",
    ]
    return "\n".join(lines)


def _trained(facts: dict[str, Any], several: bool) -> str:
    """What was trained, as the subject of a sentence."""
    head = "Linear heads" if several else "A linear head"
    return {
        "head": f"{head} on the frozen encoder",
        "last": f"{head} and the last {facts['options']['layers']} layers",
        "lora": f"{head} and LoRA adapters, merged into the weights,",
        "all": f"{head} and the whole encoder",
    }[facts["mode"]]


def _n_learnt(head: Head | NumberHead) -> int:
    cells = head.about["cells"]
    return int(cells if isinstance(head, NumberHead) else sum(cells.values()))


def _groups(facts: dict[str, Any], of: str) -> str:
    """What was held out."""
    if facts["group"]:
        return f"groups of {plain(facts['group'])}"
    return f"random {of}" + (": no group was told" if of == "cells" else "")


def _measured(head: Head | NumberHead, level: str) -> list[str]:
    """How the labels of a head fared on held-out cells."""
    if isinstance(head, NumberHead):
        return _number_measured(head, level)
    found, of = head.about["calibration"], head.of
    held, crossed = found["held_out"], found["crossed"]
    lines = [
        f"{level} On held-out {of}",
        "",
        f"Held out: {_groups(head.about, of)}; {found['held_out_by']}. Temperature and threshold "
        f"of the first column were chosen on the {of} that it is measured on; of the second, on "
        "other folds.",
        "",
        "| | chosen here | chosen on other folds |",
        "|---|---|---|",
    ]
    for key, (name, form) in FIGURES.items():
        cells = [
            "" if calls is None or calls[key] is None else format(calls[key], form)
            for calls in (held, crossed)
        ]
        lines.append(f"| {name.replace('cells', of)} | {cells[0]} | {cells[1]} |")
    if (worst := found.get("worst_fold")) is not None:
        lines.append(f"| the same, in the fold that fared worst | | {worst:.3f} |")
    return [
        *lines,
        "",
        f"Temperature {head.temperature:.3f} (calibration error without it "
        f"{found['error_before']:.3f}); below a probability of {head.threshold:.3f} a {of[:-1]} is "
        f"`unknown` (wanted: {found['wanted']:.0%} right).",
        "",
    ]


def _number_measured(head: NumberHead, level: str) -> list[str]:
    """How the predictions of a number fared on held-out cells."""
    held = head.about["held_out"]
    lines = [
        f"{level} On held-out cells",
        "",
        f"Held out: {_groups(head.about, 'cells')}; {held['by']}. {verdict(head)}",
        "",
        "| | mean absolute error | R2 | Spearman |",
        "|---|---|---|---|",
    ]
    for key, name in NUMBER_SIDES.items():
        each = held["figures"][key]
        rank = "" if each["spearman"] is None else f"{each['spearman']:.3f}"
        lines.append(f"| {name} | {each['mae']:.4g} | {each['r2']:.3f} | {rank} |")
    least, most = head.range
    return [
        *lines,
        "",
        f"{coverage_said(head)} `low` and `high` are the prediction less and plus "
        f"{head.half_width:.4g}.",
        "",
        f"In training {plain(head.target)} goes from {least:.4g} to {most:.4g}; predictions beyond "
        "that are given as they are.",
        "",
    ]


def verdict(head: NumberHead) -> str:
    """Say in one sentence whether a model that predicts a number beats the baselines."""
    sides = head.about["held_out"]["figures"]
    said = {}
    for key, each in sides.items():
        rank = "" if each["spearman"] is None else f", Spearman {each['spearman']:.2f}"
        said[key] = f"{each['mae']:.3g} (R2 {each['r2']:.2f}{rank})"
    beats = {key: sides["model"]["mae"] < sides[key]["mae"] for key in ("ridge", "mean")}
    found = {
        (True, True): "the model beats both",
        (False, True): "the model beats the mean, but not plain genes: take these instead",
        (True, False): "the model does not beat the mean, so nothing of use was learnt",
        (False, False): "the model beats neither, so nothing of use was learnt",
    }[beats["ridge"], beats["mean"]]
    return (
        f"On held-out {'groups' if head.about['group'] else 'cells'} the mean absolute error of "
        f"{plain(head.target)} is {said['model']}, that of ridge regression on log-normalised "
        f"genes (principal components) {said['ridge']}, that of the training mean {said['mean']}: "
        f"{found}."
    )


def coverage_said(head: NumberHead) -> str:
    """Say what the intervals were asked to hold, and what they hold."""
    interval = head.about["held_out"]["interval"]
    said = f"Intervals are asked to hold {interval['coverage']:.0%} of the cells"
    if interval["groups"] is not None:
        said += " of a new group"
    if interval["reached"] is None:
        return f"{said}; with one part held out nothing tells how many they do."
    return (
        f"{said}; those of each held-out fold, made from the other folds, hold "
        f"{interval['reached']:.1%} ({interval['worst_fold']:.1%} in the fold that fared worst)."
    )


def _learnt(head: Head | NumberHead, level: str) -> list[str]:
    """What a head learnt from."""
    facts, of = head.about, head.of if isinstance(head, Head) else "cells"
    left_out = [f"- left out: {n:,} {of} ({plain(why)})" for why, n in facts["left_out"].items()]
    if isinstance(head, NumberHead):
        return [*left_out, *([""] if left_out else [])]
    return [
        f"{level} Labels",
        "",
        f"| label | {of} |",
        "|---|---|",
        *(f"| {plain(label)} | {n:,} |" for label, n in facts["cells"].items()),
        "",
        *left_out,
        "",
    ]


def _trials(trials: list[dict[str, Any]]) -> list[str]:
    """Table of a search, if there was one."""
    if not trials:
        return []
    names = [name for name in trials[0] if name not in ("best", "loss")]
    rows = [
        f"| {number} | "
        + " | ".join(f"{each[name]:.3g}" for name in names)
        + f" | {each['best']} | {'' if each['loss'] is None else format(each['loss'], '.4f')} |"
        for number, each in enumerate(trials, start=1)
    ]
    return [
        "## Trials",
        "",
        "Loss on the held-out part that ends a training; the part that calibrates was not looked "
        "at. The first trial is what was asked for.",
        "",
        f"| trial | {' | '.join(name.replace('_', ' ') for name in names)} | passes kept | loss |",
        "|---" * (len(names) + 3) + "|",
        *rows,
        "",
    ]
