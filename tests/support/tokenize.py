"""A file of counts, written as ranked tokens with a gene table and a context, without a model."""

from __future__ import annotations

from pathlib import Path

from anndata import AnnData

from cellscribe.callbacks import Progress
from cellscribe.cells.counts import Counts
from cellscribe.cells.gene_names.genes import GeneMap, map_genes
from cellscribe.cells.gene_names.vocabulary import CLS, Vocabulary
from cellscribe.cells.rank import ranker
from cellscribe.cells.tokenize import Tokenized, write_tokens
from cellscribe.config import InputOptions


def tokenize_file(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    *,
    vocabulary: Vocabulary,
    context: int,
    cls_token: bool = True,
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Rank the genes of every cell and write the tokens.

    Parameters
    ----------
    source, layer
        As for `open_counts`.
    out
        The ``.parquet`` file; it appears whole or not at all.
    vocabulary, context, cls_token
        Gene table, most genes a cell, and whether [CLS] stands in front.
    gene_key
        As for `map_genes`.
    overwrite
        Replace `out` if it exists.
    progress
        Called with (cells done, cells in all).

    Raises
    ------
    InputError
        See `write_tokens`.
    """

    def look_up(counts: Counts) -> GeneMap:
        return map_genes(counts.var, vocabulary, gene_key=gene_key, name=counts.name)

    return write_tokens(
        source,
        out,
        look_up,
        ranker(vocabulary.medians, context),
        front=(CLS,) if cls_token else (),
        about={
            "vocabulary_hash": vocabulary.hash,
            "context": context,
            "cls_token": cls_token,
        },
        options=InputOptions(layer=layer),
        overwrite=overwrite,
        progress=progress,
    )
