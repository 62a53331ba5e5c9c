"""The verb index: labelled cells kept to be searched, and searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellscribe.callbacks import Log, Progress, in_step, log_stderr
from cellscribe.config import AddOptions, IndexOptions, QueryOptions, choose_options
from cellscribe.config.annotate import Align
from cellscribe.errors import InputError
from cellscribe.lease import claim

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


def build_index(
    sources: str | Path | AnnData | Sequence[str | Path | AnnData],
    out: str | Path,
    options: IndexOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    label: str | Sequence[str] | None = None,
    obs: Sequence[str] | None = None,
    group: str | None = None,
    use_rep: str | None = None,
    deduplicate: bool | None = None,
    overwrite: bool | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> dict[str, Any]:
    """Build an index of labelled cells, a folder that grows source by source.

    Parameters
    ----------
    sources
        Files of raw counts, folders of files, globs or lists, as for `embed_files`; AnnData; or an
        output folder of `embed_files`, whose vectors are taken.
    out
        The folder; it is an index when all is done.
    options
        All settings at once, in place of `label` to `overwrite`.
    model
        A bundled model's name (``"mini"`` if not given), a checkpoint directory or a loaded model.
    label
        Columns of obs with labels; the first is what `annotate` gives.
    obs
        Further columns of obs that are kept.
    group
        Column of obs whose groups are held out whole: donor, batch or dataset.
    use_rep
        Key of obsm with finished vectors of the model.
    deduplicate
        Leave out cells that are the same as earlier ones.
    overwrite
        Replace an index.
    progress
        Called with (cells done, cells in all, name of the step).
    log
        Called with each line that a user should read.

    Returns
    -------
    dict
        As `index_info`.

    Raises
    ------
    InputError
        Bad input or options, vectors of another model, a full disk.
    """
    from cellscribe.index.build import build_index as build

    given: dict[str, Any] = {
        "label": (label,) if isinstance(label, str) else label and tuple(label),
        "obs": obs and tuple(obs),
        "group": group,
        "use_rep": use_rep,
        "deduplicate": deduplicate,
        "overwrite": overwrite,
    }
    options = choose_options(IndexOptions, options, "build_index", given)
    done = build(sources, Path(out), options, model=model, log=log, progress=progress)
    return index_info(done.folder)


def add_to_index(
    index: str | Path,
    sources: str | Path | AnnData | Sequence[str | Path | AnnData],
    options: AddOptions | None = None,
    *,
    use_rep: str | None = None,
    deduplicate: bool | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> dict[str, Any]:
    """Add the cells of further sources to an index; those that it has already are left out.

    Parameters
    ----------
    index
        The folder. Until the last step it stays as it was, whatever happens.
    sources, use_rep, deduplicate, progress, log
        As for `build_index`.
    options
        All settings at once, in place of the keywords.

    Returns
    -------
    dict
        As `index_info`.

    Raises
    ------
    InputError
        As `build_index`; a damaged index, or one that another process adds to.
    """
    from cellscribe.index.build import add_to_index as add

    given = {"use_rep": use_rep, "deduplicate": deduplicate}
    options = choose_options(AddOptions, options, "add_to_index", given)
    return index_info(add(Path(index), sources, options, log=log, progress=progress).folder)


def index_info(index: str | Path, *, verify: bool = False) -> dict[str, Any]:
    """Tell what an index holds.

    Parameters
    ----------
    index
        The folder.
    verify
        Compare every file with its SHA-256; sizes are compared in any case.

    Returns
    -------
    dict
        Model, cells, bytes, sources, columns, and what the labels of each are worth.

    Raises
    ------
    InputError
        It is no index, or damaged.
    """
    from cellscribe.index import store

    opened = store.open_index(index)
    if verify:
        store.verify(opened)
    header = opened.header
    return {
        "cells": opened.n_cells,
        "bytes": sum(stored["bytes"] for stored in store.files_of(header)),
        "model": header["model"],
        "search": "exact" if header["search"] is None else "approximate (faiss)",
        "compared_by": header["space"]["kind"],
        "group": header["group"],
        "obs": header["obs"],
        "columns": header["columns"],
        "sources": [
            {key: part[key] for key in ("name", "cells", "left_out")} for part in header["parts"]
        ],
        "verified": verify,
    }


def search(
    source: str | Path | AnnData,
    index: str | Path,
    options: QueryOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    label: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    use_rep: str | None = None,
    align: Align | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Find the nearest cells of an index for each cell, and the labels that they give.

    Parameters
    ----------
    source
        AnnData, or a file of any known format. Raw counts, or vectors of the model in obsm.
    index
        The folder.
    options
        All settings at once, in place of `label` to `align`.
    model
        The index's model, loaded or where it lies now.
    label
        The only column of labels to give.
    layer, gene_key
        As for `embed`.
    use_rep
        Key of obsm with finished vectors of the index's model.
    align
        How vectors are brought to those of the index, as for `annotate`.
    progress
        Called with (cells done, cells in all).
    log
        Called with each line that a user should read.

    Returns
    -------
    pandas.DataFrame
        A row a cell: labels, their probabilities, and lists of neighbours; see `index.hits`.

    Raises
    ------
    InputError
        Bad input, a damaged index, or another model than its own.
    """
    from cellscribe.index.hits import find_hits
    from cellscribe.index.made_by import session_for
    from cellscribe.index.query import Querying
    from cellscribe.index.store import open_index
    from cellscribe.index.vectors import find_references, open_reference

    given = {
        "label": label,
        "layer": layer,
        "gene_key": gene_key,
        "use_rep": use_rep,
        "align": align,
    }
    options = choose_options(QueryOptions, options, "search", given)
    opened_index = open_index(index)
    references = find_references(source)
    if len(references) > 1:
        raise InputError(f"{source} names {len(references)} sources; search for one at a time")
    wanted = opened_index.header["model"]
    chosen = options.model if model is None else model
    with (
        session_for(opened_index, options, chosen, log=log) as session,
        open_reference(
            references[0],
            session,
            wanted,
            use_rep=options.use_rep,
            progress=in_step(progress, "Searching"),
        ) as opened,
    ):
        querying = Querying(opened_index, options.label)
        return find_hits(querying, opened, options.align, log)


def search_file(
    source: str | Path | AnnData,
    index: str | Path,
    out: str | Path,
    options: QueryOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Write what `search` finds to a ``.parquet``, which appears when it is whole.

    Parameters
    ----------
    source, index, options, model, progress, log
        As for `search`.
    out
        The output.

    Returns
    -------
    pandas.DataFrame
        What was written.

    Raises
    ------
    InputError
        As `search`; an output of another form, a full disk.
    """
    from cellscribe.writing import writing

    options, out = options or QueryOptions(), Path(out)
    if out.suffix != ".parquet":
        raise InputError(
            f"{out}: end the output's name in .parquet, which holds lists of neighbors"
        )
    paths = [Path(path) for path in (source, index) if isinstance(path, str | Path)]
    with claim(out, paths, overwrite=options.overwrite):
        found = search(source, index, options, model=model, progress=progress, log=log)
        # the texts, not categories: every reader of Parquet takes them for what they are
        texts = {name: str for name in found if found[name].dtype == "category"}
        with writing(out) as partial:
            found.astype(texts).reset_index().to_parquet(partial, index=False)
    return found
