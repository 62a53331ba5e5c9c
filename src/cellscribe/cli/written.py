"""The end of a verb: what it wrote, for a reader or as JSON for a program."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from cyclopts import Parameter

from cellscribe.cells.gene_names.genes import GeneMap

AsJson: TypeAlias = Annotated[bool, Parameter(name="--json")]
"""The option of a verb that can say what it did as one JSON object."""


def print_written(
    paths: Iterable[str | Path | None], as_json: bool, facts: Callable[[], dict[str, Any]]
) -> None:
    """Print the paths of what was written, a line each, or one object with them and more.

    Parameters
    ----------
    paths
        In the order of importance; one that is None was not asked for.
    as_json
        Whether a program reads it.
    facts
        What the object holds besides ``written``.
    """
    written = [str(path) for path in paths if path is not None]
    if as_json:
        print(json.dumps({"written": written, **facts()}, default=str))
        return
    for path in written:
        print(path)


def gene_facts(genes: GeneMap) -> dict[str, int]:
    """Genes of a file, those of them that the model knows, and the tokens that these make."""
    return {"all": genes.n_genes, "known": genes.n_known, "tokens": genes.n_tokens}
