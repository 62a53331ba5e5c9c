"""The verbs on training stores: corpus census, build and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import BuildOptions, CensusOptions, SplitOptions
from cellscribe.config.renamed import former_keywords
from cellscribe.corpus.store import Corpus, open_corpus

if TYPE_CHECKING:
    from cellscribe.census.download import Census
    from cellscribe.corpus.card import Card

__all__ = ["build_corpus", "corpus_card", "download_census", "open_corpus"]


@former_keywords(say="log")
def build_corpus(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    options: BuildOptions | None = None,
    split: SplitOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Corpus:
    """Make a shuffled, split training store of many files; an interrupted build goes on.

    Parameters
    ----------
    sources
        Raw counts in any known format: files, folders of such, globs, and lists of them: a CSV with
        the column ``path`` (and ``name``, ``layer``, ``gene_key``), or a text file of paths.
    out
        Folder of the corpus.
    options
        What goes into it.
    split
        How it is split.
    progress
        Called with (done, total, name of the step).
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        Bad input or options, or a folder that holds something else.
    """
    from cellscribe.corpus.build.build import build_corpus as build

    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    return build(listed, out, options, split, progress=progress, log=log)


def corpus_card(
    corpus: str | Path,
    *,
    html: str | Path | None = None,
    md: str | Path | None = None,
    progress: Progress | None = None,
) -> Card:
    """Describe a corpus, and write its data card as a page and as Markdown.

    Parameters
    ----------
    corpus
        Folder of the corpus.
    html, md
        The two files; ``card.html`` and ``card.md`` in the corpus if not given.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        No corpus is there, or a file cannot be written.
    """
    from cellscribe.lease import lease
    from cellscribe.report.data_card_page import write_card

    folder = Path(corpus)
    page = folder / "card.html" if html is None else Path(html)
    text = folder / "card.md" if md is None else Path(md)
    with lease(page, text):
        return write_card(folder, html=page, md=text, progress=progress)


def download_census(
    out: str | Path,
    options: CensusOptions | None = None,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Census:
    """Download the cells of the CELLxGENE Census that sc-FM was trained on, one h5ad a dataset.

    Parameters
    ----------
    out
        Folder of the files; the same call goes on with one that was interrupted.
    options
        Release and conditions.
    progress
        Called with (cells done, cells in all).
    log
        Called with each line that a user should read.

    Raises
    ------
    InputError
        The extra ``census`` is not installed, or nothing fits the conditions.
    """
    from cellscribe.census.download import download_census as download

    return download(Path(out), options or CensusOptions(), progress=progress, log=log)
