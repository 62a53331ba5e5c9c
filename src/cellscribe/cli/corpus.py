"""Verbs on a training store: corpus census, build, card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import BuildOptions, CensusOptions, SplitOptions
from cellscribe.errors import InputError

corpus = App(name="corpus", help="From many files of cells to one training store.")
app.command(corpus)


@corpus.command
def census(
    *,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    options: Annotated[CensusOptions | None, Parameter(name="*")] = None,
) -> None:
    """Download the cells of the CELLxGENE Census that sc-FM was trained on, one h5ad a dataset.

    Parameters
    ----------
    out
        Folder of the files; the same command goes on with one that was interrupted.
    """
    from cellscribe.census.download import count_labels, render_labels

    options = options or CensusOptions()
    if options.dry_run:
        print(render_labels(count_labels(options, log=log_stderr)))
        return
    if out is None:
        raise InputError("name a folder for the download with -o, or count cells with --dry-run")
    with progress_bar("Downloading") as progress:
        done = cellscribe.download_census(out, options, progress=progress, log=log_stderr)
    log_stderr(f"{done.cells:,} cells of {len(done.datasets):,} datasets")
    print(out)


@corpus.command
def build(
    sources: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[BuildOptions | None, Parameter(name="*")] = None,
    split: Annotated[SplitOptions | None, Parameter(name="*")] = None,
) -> None:
    """Make a shuffled, split training store: counts, tokens, gene table, manifest.

    Parameters
    ----------
    sources
        Raw counts in any known format, folders of such files (a census download is one), globs, or
        lists: a CSV with the columns path, name, layer, gene_key, or a text file of paths.
    out
        Folder of the corpus. The same command goes on with one that was interrupted.
    """
    with progress_bar("Looking at sources") as progress:
        done = cellscribe.build_corpus(
            sources,
            out,
            options,
            split,
            progress=progress,
            log=log_stderr,
        )
    for line in done.summary():
        log_stderr(line)
    print(out)


@corpus.command
def card(
    folder: Path,
    /,
    *,
    html: Path | None = None,
    md: Path | None = None,
) -> None:
    """Describe a corpus: cells by label and split, depth, coverage, and a check for leaks.

    Parameters
    ----------
    folder
        A corpus.
    html
        The page; card.html in the corpus if not given.
    md
        The same as Markdown; card.md in the corpus if not given.
    """
    from cellscribe.report.data_card import warnings

    html, md = html or folder / "card.html", md or folder / "card.md"
    with progress_bar("Counting") as progress:
        done = cellscribe.corpus_card(folder, html=html, md=md, progress=progress)
    for line in warnings(done):
        log_stderr(f"Warning: {line}")
    print(html)
    print(md)
