"""The verb embed: cells to vectors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.atlas.remote_lease import remote_lease
from cellscribe.buckets.local_paths import local_paths
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.cells.counts import Counts
from cellscribe.cells.readers.token_source import TokenCells
from cellscribe.config import (
    CountsKind,
    EmbedOptions,
    ExploreOptions,
    OutputDtype,
    Precision,
    Species,
    choose_options,
)
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.embed import (
    Embedded,
    about_vectors,
    check_output,
    check_where,
    embed_cells,
)
from cellscribe.inference.inputs import InputFiles
from cellscribe.inference.obs_columns import check_columns
from cellscribe.inference.session import open_session
from cellscribe.lease import lease

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


def embed(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    key_added: str | None = None,
    copy: bool = False,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    dtype: OutputDtype | None = None,
    threads: int | None = None,
    options: EmbedOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData | npt.NDArray[np.floating] | None:
    """Embed the cells of an AnnData in place, or those of a file into an array.

    Parameters
    ----------
    source
        AnnData, in memory or backed, or a file of any known format. Raw counts. Or tokens of the
        model: a file of `tokenize`, or a Hugging Face dataset folder.
    model
        A bundled model's name (``"mini"`` if not given), a checkpoint directory, or a loaded
        model from `load`.
    key_added
        The vectors go to ``obsm[key_added]`` (``"X_cellscribe"`` if not given), their provenance
        to ``uns["cellscribe"][key_added]``.
    copy
        Leave an AnnData as it is and return a changed copy.
    layer
        Where the raw counts are: ``"X"`` (default), ``"raw"``, or a layer's name.
    gene_key
        Column of ``var`` with Ensembl ids or symbols; found by its values if not given.
    species
        ``"mouse"`` for mouse genes, which are read as their one-to-one human orthologues.
    modality, table
        Modality of a MuData (found by its name if not given) or table of a SpatialData.
    counts
        What the values are: ``"raw"`` counts (default), ``"fractional"`` ones, which were corrected
        or estimated (SoupX, alevin, RSEM), or ``"tpm"`` of bulk samples.
    pool, hidden_layer
        How a cell's vector is made, where it differs from what the model's family publishes.
    device, precision, threads
        As for `load`.
    dtype
        Type of the vectors: ``"float32"`` (default) or ``"float16"``.
    options
        All settings at once, in place of the keywords above.
    progress
        Called with (cells done, cells in all).
    log
        Called with each line that a user should read.

    Returns
    -------
    AnnData, numpy.ndarray or None
        None for an AnnData; the copy with `copy`; ``[n_cells, D]`` for a file.

    Raises
    ------
    InputError
        Bad input, or settings given both by keyword and in `options`.
    """
    given = {
        "key_added": key_added,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "device": device,
        "precision": precision,
        "dtype": dtype,
        "threads": threads,
    }
    options = choose_options(EmbedOptions, options, "embed", given)
    from anndata import ImplicitModificationWarning

    with open_session(model, options, log=log) as session:
        cells = session.map_genes(session.open_cells(source), options.gene_key)
        vectors, facts = session.embedder.embed_counts(
            cells.counts, cells.genes, dtype=options.dtype, progress=progress
        )
        about = about_vectors(session, cells, facts, options.dtype)
    if isinstance(source, str | Path):
        return vectors
    adata = to_change(source, copy=copy)
    with warnings.catch_warnings():
        # a view becomes an AnnData of its own, which is what its owner asks for
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.obsm[options.key_added] = vectors
    keep_about(adata, options.key_added, about)
    return adata if copy else None


def to_change(adata: AnnData, *, copy: bool) -> AnnData:
    """The AnnData that a verb writes into: the caller's own, or a copy in memory."""
    if not copy:
        return adata
    # A backed one has no copy but in another file.
    return adata.to_memory() if adata.isbacked else adata.copy()


def keep_about(adata: AnnData, key: str, about: dict[str, Any]) -> None:
    """Put the provenance of a result into ``uns["cellscribe"]``."""
    adata.uns["cellscribe"] = {**adata.uns.get("cellscribe", {}), key: about}


@former_keywords(say="log")
def embed_file(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    options: EmbedOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    key_added: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    dtype: OutputDtype | None = None,
    threads: int | None = None,
    obs: Sequence[str] | None = None,
    resume: bool | None = None,
    overwrite: bool | None = None,
    report: str | Path | None = None,
    map_png: str | Path | None = None,
    map_page: str | Path | None = None,
    color_by: str | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Embedded:
    """Embed every cell of `source` into the file `out`, by blocks, resumable.

    Parameters
    ----------
    source
        As for `embed`.
    out
        ``.npy``, ``.h5ad``, ``.zarr`` or ``.parquet``; a path or the URL of an object in a bucket.
    options
        All settings at once, in place of the keywords from `key_added` to `overwrite`.
    model, key_added, layer, gene_key, species, modality, table, counts, pool, hidden_layer, device,
    precision, dtype, threads
        As for `embed`.
    obs
        Columns of obs to write next to the vectors in a ``.parquet``.
    resume
        Go on with an interrupted run, where there is one.
    overwrite
        Replace `out` if it exists.
    report
        Also write a self-contained HTML page here.
    map_png
        Also draw the map (UMAP of the vectors) here.
    map_page
        Also write the page of `explore` here; `out` is an ``.h5ad`` or ``.zarr``.
    color_by
        Column of obs that colours the maps.
    progress, log
        As for `embed`.

    Raises
    ------
    InputError
        Bad input or options, a full disk.
    """
    given = {
        "key_added": key_added,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "device": device,
        "precision": precision,
        "dtype": dtype,
        "threads": threads,
        "obs": None if obs is None else tuple(obs),
        "resume": resume,
        "overwrite": overwrite,
    }
    options = choose_options(EmbedOptions, options, "embed_file", given)
    report, map_png, map_page = (
        None if path is None else Path(path) for path in (report, map_png, map_page)
    )
    drawn = [path for path in (report, map_png, map_page) if path is not None]
    if map_page is not None and Path(out).suffix not in (".h5ad", ".zarr"):
        raise InputError(f"{out}: --explore needs vectors next to obs; write an .h5ad or .zarr")
    with ExitStack() as stack:
        stack.enter_context(remote_lease(out, log))
        remote = local_paths(source, out, overwrite=options.overwrite)
        source, out = stack.enter_context(remote)
        read = source if isinstance(source, str | Path) else getattr(source, "filename", None)
        path = None if read is None else Path(read)
        # A conversion of the input may take long: an output that cannot be is refused before it.
        check_where(out, path, options)
        stack.enter_context(lease(out, *drawn))
        check_output(out, path, options)
        files = InputFiles(path)
        session = stack.enter_context(open_session(model, options, log=log))
        opened = session.open_cells(source)
        check_columns(opened, options.obs)
        if report is not None and isinstance(opened, TokenCells):
            raise InputError(
                f"{opened.name} holds tokens and no counts, as a report shows; leave --report out"
            )
        if drawn:
            from cellscribe.report.embedding_files import check_wishes, draw

            check_wishes(opened, color_by, drawn, out)
        cells = session.map_genes(opened, options.gene_key)
        result = embed_cells(session, cells, out, options, files=files, progress=progress)
        if drawn:
            found = draw(
                result,
                opened,
                context=session.embedder.context,
                color_by=color_by,
                report=report,
                map_png=map_png,
                map_page=map_page,
            )
            result.warnings.extend(found)
        if map_page is not None:
            from cellscribe.api.explore import write_page

            color = () if color_by is None else (color_by,)
            shown = ExploreOptions(color=color, use_rep=options.key_added, layer=options.layer)
            write_page(out, map_page, shown, progress=progress, log=log)
    return result
