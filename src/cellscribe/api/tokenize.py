"""The verb tokenize: cells to tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.callbacks import Progress
from cellscribe.cells.tokenize import Tokenized, write_tokens
from cellscribe.families.registry import open_tokenizer, read_model

if TYPE_CHECKING:
    from anndata import AnnData


def tokenize(
    source: str | Path | AnnData,
    out: str | Path,
    *,
    model: str | Path = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Tokenized:
    """Write the tokens of every cell to a Parquet file, with a model's gene table and context.

    Parameters
    ----------
    source, layer, gene_key
        As for `embed`.
    out
        The ``.parquet`` file.
    model
        A bundled model's name or a checkpoint directory.
    overwrite
        Replace `out` if it exists.
    progress
        Told (cells done, cells in all).

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    header = read_model(model)
    tokenizer = open_tokenizer(header)
    return write_tokens(
        source,
        out,
        lambda counts: header.map_genes(counts.var, gene_key=gene_key, name=counts.name),
        tokenizer.tokenize,
        front=tokenizer.front,
        back=tokenizer.back,
        about=tokenizer.about,
        layer=layer,
        overwrite=overwrite,
        progress=progress,
    )
