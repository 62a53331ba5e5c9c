"""Verbs on an index of labelled cells: index build, add, query, info."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.cli.written import AsJson
from cellscribe.config import AddOptions, IndexOptions, QueryOptions

index = App(name="index", help="Labelled cells, kept to be searched by new ones.")
app.command(index)


@index.command
def build(
    sources: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[IndexOptions | None, Parameter(name="*")] = None,
) -> None:
    """Build an index of labelled cells.

    Parameters
    ----------
    sources
        Raw counts: files, folders of files, globs, lists; or an output folder of embed.
    out
        Folder of the index.
    """
    with progress_bar("Embedding") as progress:
        done = cellscribe.build_index(sources, out, options, progress=progress, log=log_stderr)
    log_stderr(_sentence(done))
    print(out)


@index.command
def add(
    folder: Path,
    sources: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    options: Annotated[AddOptions | None, Parameter(name="*")] = None,
) -> None:
    """Add cells to an index; sources that it has already are left out.

    Parameters
    ----------
    folder
        The index. Until all is done it stays as it was.
    sources
        As for build.
    """
    with progress_bar("Embedding") as progress:
        done = cellscribe.add_to_index(folder, sources, options, progress=progress, log=log_stderr)
    log_stderr(_sentence(done))
    print(folder)


@index.command
def query(
    folder: Path,
    source: str,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[QueryOptions | None, Parameter(name="*")] = None,
) -> None:
    """Find the nearest cells of an index for every cell, and the labels that they give.

    Parameters
    ----------
    folder
        The index.
    source
        Raw counts in any known format, or an .h5ad with vectors (--use-rep).
    out
        .parquet: labels, probabilities and lists of neighbors; appears when it is whole.
    """
    with progress_bar("Searching") as progress:
        found = cellscribe.search_file(
            source, folder, out, options, progress=progress, log=log_stderr
        )
    log_stderr(f"{len(found):,} cells")
    print(out)


@index.command
def info(
    folder: Path,
    /,
    *,
    verify: bool = False,
    as_json: AsJson = False,
) -> None:
    """Say what an index holds.

    Parameters
    ----------
    folder
        The index.
    verify
        Compare every file with its SHA-256, and not its size alone.
    as_json
        Print all of it as JSON.
    """
    found = cellscribe.index_info(folder, verify=verify)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for line in _lines(found):
        print(line)


def _sentence(found: dict[str, Any]) -> str:
    return (
        f"{found['cells']:,} cells of {len(found['sources']):,} sources, "
        f"{found['bytes'] / 1e6:,.1f} MB, search {found['search']}"
    )


def _lines(found: dict[str, Any]) -> list[str]:
    model = found["model"]
    lines = [
        _sentence(found),
        f"model {model['name']} ({model['hash']}, gene table {model['vocabulary_hash']})",
    ]
    for source in found["sources"]:
        lines.append(f"{source['cells']:>9,}  {source['name']}")
    for name, column in found["columns"].items():
        lines.append(
            f"{name}: {len(column['labels']):,} labels, threshold {column['threshold']:.3f}, "
            f"{column['disagreement']:.1%} of neighbors have another label"
        )
        for label, n in column["labels"].items():
            lines.append(f"{n:>9,}  {label} {column['ontology'].get(label, '')}".rstrip())
    lines.append("every file is as it was written" if found["verified"] else "sizes are right")
    return lines
