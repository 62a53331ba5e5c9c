"""The verb tokenize: cells to a model's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.atlas.remote_lease import remote_lease
from cellscribe.buckets.local_paths import local_paths
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.cells.tokenize import Tokenized, write_tokens
from cellscribe.config import CountsKind, Species, TokenizeOptions, choose_options
from cellscribe.inference.session import open_session

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


def tokenize(
    source: str | Path | AnnData,
    out: str | Path,
    *,
    model: str | Path | Embedder | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    overwrite: bool | None = None,
    options: TokenizeOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Tokenized:
    """Write the tokens of every cell to a Parquet file, with a model's gene table and context.

    Parameters
    ----------
    source, model, layer, gene_key, species, modality, table, counts, progress, log
        As for `embed`.
    out
        The ``.parquet`` file; a path or the URL of an object in a bucket.
    overwrite
        Replace `out` if it exists.
    options
        All settings at once, in place of the keywords.

    Raises
    ------
    InputError
        Bad input, in one line that says how to fix it.
    """
    given = {
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "overwrite": overwrite,
    }
    options = choose_options(TokenizeOptions, options, "tokenize", given)
    with (
        remote_lease(out, log),
        local_paths(source, out, overwrite=options.overwrite) as (given_source, path),
        open_session(model, options, log=log) as session,
    ):
        tokenizer = session.tokenizer(options.counts)
        return write_tokens(
            given_source,
            path,
            lambda counts: session.map_genes(counts, options.gene_key).genes,
            tokenizer.tokenize,
            front=tokenizer.front,
            back=tokenizer.back,
            about=tokenizer.about,
            options=options,
            overwrite=options.overwrite,
            progress=progress,
        )
