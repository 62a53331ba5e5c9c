"""What the site's pages say that is taken from the program: every verb with its options.

The documents hold a comment, ``<!-- verbs -->``, and get the text when they are built. Of notebooks
it says which lack the files that they read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERBS = "<!-- verbs -->"
NEEDS = 'CELLSCRIBE_DATA"] / "'


def fill(app: object, docname: str, source: list[str]) -> None:
    """Put the verbs where a page asks for them: a handler of Sphinx's ``source-read``."""
    if VERBS in source[0]:
        source[0] = source[0].replace(VERBS, verbs())


def join_names(
    app: object, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Bring the names of parameters that share a text onto one line, as napoleon reads them."""
    at = 0
    while at + 1 < len(lines):
        if lines[at].endswith(",") and re.fullmatch(r"[\w, ]+,", lines[at]):
            lines[at : at + 2] = [f"{lines[at]} {lines[at + 1].strip()}"]
        else:
            at += 1


def verbs() -> str:
    """Describe every verb of the command line in Markdown."""
    from cellscribe.cli import app

    return "\n\n".join(_verb(words, verb) for words, verb in named_verbs(app))


def named_verbs(app: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the words and the app of each verb that a reader may type."""
    for name in sorted(app):
        verb = app[name]
        if name.startswith("-") or not verb.show:
            continue
        words = f"{above} {name}".strip()
        if verb.default_command is None:
            yield from named_verbs(verb, words)
        else:
            yield words, verb


def _verb(words: str, verb: Any) -> str:
    from cellscribe.cli.examples import EXAMPLES

    parts = [f"## {words}", summary(verb)]
    if lines := EXAMPLES.get(words):
        parts.append("\n".join(f"    cellscribe {line}" for line in lines))
    rows = [
        row
        for argument in verb.assemble_argument_collection(parse_docstring=True)
        for row in _row(argument)
    ]
    if rows:
        parts.append(
            "\n".join(["| option | default | what it does |", "| :-- | :-- | :-- |", *rows])
        )
    return "\n\n".join(parts)


def summary(verb: Any) -> str:
    """Take the first paragraph of a verb's help."""
    return " ".join(str(verb.help).split("\n\n")[0].split())


def _row(argument: Any) -> Iterator[str]:
    if not argument.show:
        return
    names = " ".join(f"`{name}`" for name in argument.names if not name.startswith("--no-"))
    default = argument.field_info.default
    if argument.required:
        shown = "required"
    elif isinstance(default, str | int | float) and default != "":
        shown = f"`{default}`"
    else:
        shown = "–"
    says = " ".join(str(argument.parameter.help or "").split())
    if choices := argument.get_choices():
        says += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    yield f"| {names} | {shown} | {_cell(says)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def not_runnable(folder: Path) -> list[str]:
    """List the notebooks that read a file of CELLSCRIBE_DATA which is not there."""
    data = Path(os.environ["CELLSCRIBE_DATA"])
    return [
        f"notebooks/{path.name}"
        for path in sorted(folder.glob("*.md"))
        if any(not (data / name).exists() for name in files_of(path.read_text(encoding="utf-8")))
    ]


def files_of(text: str) -> list[str]:
    """Name the files of CELLSCRIBE_DATA that a notebook reads."""
    return [part.partition('"')[0] for part in text.split(NEEDS)[1:]]
