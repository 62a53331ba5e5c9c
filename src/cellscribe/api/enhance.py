"""The verb enhance: expression as a model gives it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellscribe.api.genes import claim_form, gene_frame
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import CountsKind, EnhanceOptions, Precision, choose_options
from cellscribe.config.renamed import former_keywords
from cellscribe.inference.session import open_session
from cellscribe.writing import writing

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder


@former_keywords(say="log")
def enhance(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    target_depth: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    counts: CountsKind | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    options: EnhanceOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Compute the expression of every gene of the model in each cell, as the model gives it back.

    Parameters
    ----------
    source, layer, gene_key, counts, device, precision, threads, options, progress, log
        As for `embed_genes`.
    model
        A checkpoint directory of a family that can (scFoundation), or such a model, loaded.
    target_depth
        Read depth to aim at: ``"t4"`` (10^4 counts), ``"f2"`` (twofold), ``"a1"`` (+1).

    Returns
    -------
    AnnData
        ``X`` ``[cells, genes of the model]`` float32, log-normalised as the family has it, zeros
        for a cell without a known gene; ``obs`` of the input.

    Raises
    ------
    InputError
        Bad input, or a model whose family gives no expression back.
    """
    given = {
        "target_depth": target_depth,
        "layer": layer,
        "gene_key": gene_key,
        "counts": counts,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(EnhanceOptions, options, "enhance", given)
    with open_session(model, options, log=log) as session:
        cells = session.open(source)
        embedder, opened = session.embedder, cells.counts
        from anndata import AnnData

        from cellscribe.inference.gene_vectors import expression

        values = np.zeros((opened.n_cells, len(session.header.table)), dtype=np.float32)
        for rows, part in expression(embedder, opened, cells.genes, progress=progress):
            values[rows] = part
        var = gene_frame(session)
        # Special tokens, such as read depths, have no expression.
        is_gene = ~var["symbol"].str.startswith("<").to_numpy()
        about = session.about(cells, what="expression as the model gives it back")
        return AnnData(
            X=values[:, is_gene],
            obs=opened.obs.copy(),
            var=var[is_gene],
            uns={"cellscribe": about},
        )


def enhance_file(
    source: str | Path | AnnData,
    out: str | Path,
    options: EnhanceOptions | None = None,
    *,
    model: str | Path | Embedder | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Write `enhance` to an ``.h5ad``."""
    options, out = options or EnhanceOptions(), Path(out)
    with claim_form(out, source, (".h5ad",), overwrite=options.overwrite):
        found = enhance(source, model=model, options=options, progress=progress, log=log)
        with writing(out) as partial:
            found.write_h5ad(partial)
    return found
