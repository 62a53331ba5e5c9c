"""Beyond one vector a cell: vectors of genes, and expression as a model gives it back.

For the command line and for Python. The verbs of `api` make vectors of cells.
"""

from __future__ import annotations

from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.config import EmbedOptions, from_mapping
from cellscribe.errors import InputError
from cellscribe.families.registry import read_model
from cellscribe.writing import check_target, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from anndata import AnnData

    from cellscribe.cells.genes import GeneMap
    from cellscribe.inference.embedder import Embedder


def embed_genes(
    source: str | Path | AnnData,
    *,
    model: str | Path = "mini",
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> AnnData:
    """Mean contextual vector of each gene over the cells that show it to the model.

    Parameters
    ----------
    source
        AnnData or a file of any known format. Raw counts.
    model
        A bundled model's name or a checkpoint directory.
    progress
        Told (cells done, cells in all).
    log
        Told what a user should know.
    **settings
        Fields of `config.EmbedOptions`: layer, gene_key, device, precision, hidden_layer, ...

    Returns
    -------
    AnnData
        ``X`` ``[genes, D]`` float32; ``obs`` by Ensembl id (or the name that the model's family
        has) with ``symbol`` and ``n_cells``; what they are in ``uns["cellscribe"]``.

    Raises
    ------
    InputError
        Bad input, or a model whose family has no vectors of genes.
    """
    from anndata import AnnData

    from cellscribe.inference.gene_vectors import gene_vectors

    with _opened(source, model, settings, log) as (counts, genes, embedder):
        found = gene_vectors(embedder, counts, genes, progress=progress)
        obs = _gene_frame(embedder).iloc[found.tokens].assign(n_cells=found.n_cells)
        told = _about(counts, embedder, "mean over cells of each gene's vector")
        return AnnData(X=found.vectors, obs=obs, uns={"cellscribe": told})


def gene_importance(
    source: str | Path | AnnData,
    *,
    model: str | Path,
    group: str | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> pd.DataFrame:
    """How much attention each gene gets, by group of cells (scBERT).

    Parameters
    ----------
    source, progress, log, **settings
        As for `embed_genes`.
    model
        A checkpoint directory of a family that tells it (scBERT).
    group
        Column of obs, such as ``cell_type``; all cells together if not given.

    Returns
    -------
    pandas.DataFrame
        A row a gene of the model, a column a group: mean over the group's cells of the share of
        the attention in a cell that the gene gets. A group of cells without a known gene is absent.

    Raises
    ------
    InputError
        Bad input, no such column, or a model whose family tells no importance.
    """
    import pandas as pd

    from cellscribe.inference.gene_vectors import importance

    with _opened(source, model, settings, log) as (counts, genes, embedder):
        if group is None:
            labels = pd.Series("all", index=range(counts.n_cells))
        elif group in counts.obs:
            labels = counts.obs[group]
        else:
            there = ", ".join(map(str, counts.obs.columns)) or "none"
            raise InputError(f"{counts.name}: no obs column {group!r}; there are {there}")
        codes, names = pd.factorize(labels.to_numpy(dtype=object), sort=True)
        shares, n_cells = importance(embedder, counts, genes, codes, progress=progress)
        frame = _gene_frame(embedder)
        for name, share in zip(names[n_cells > 0], shares[n_cells > 0], strict=True):
            frame[str(name)] = share
        return frame


def enhance(
    source: str | Path | AnnData,
    *,
    model: str | Path,
    progress: Progress | None = None,
    log: Log = log_stderr,
    **settings: Any,
) -> AnnData:
    """Expression of every gene of the model in each cell, as the model gives it back.

    scFoundation's read-depth enhancement: `target_depth` says which depth is aimed at.

    Parameters
    ----------
    source, progress, log, **settings
        As for `embed_genes`.
    model
        A checkpoint directory of a family that can (scFoundation).

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
    from anndata import AnnData

    from cellscribe.inference.gene_vectors import expression

    with _opened(source, model, settings, log) as (counts, genes, embedder):
        values = np.zeros((counts.n_cells, len(embedder.header.table)), dtype=np.float32)
        for rows, part in expression(embedder, counts, genes, progress=progress):
            values[rows] = part
        told = _about(counts, embedder, "expression as the model gives it back")
        var = _gene_frame(embedder)
        # Of special tokens, such as read depths, there is no expression.
        genes_alone = ~var["symbol"].str.startswith("<").to_numpy()
        return AnnData(
            X=values[:, genes_alone],
            obs=counts.obs.copy(),
            var=var[genes_alone],
            uns={"cellscribe": told},
        )


def write_genes(
    source: str | Path,
    out: Path,
    options: EmbedOptions,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Write `embed_genes` to an ``.h5ad`` or a ``.parquet`` (gene, symbol, n_cells, embedding)."""
    _check_out(out, source, options, (".h5ad", ".parquet"))
    found = embed_genes(source, **vars(options), progress=progress, log=log)
    with writing(out) as partial:
        if out.suffix == ".h5ad":
            found.write_h5ad(partial)
        else:
            frame = found.obs.rename_axis("gene").reset_index()
            frame.assign(embedding=list(found.X)).to_parquet(partial)
    return found


def write_enhanced(
    source: str | Path,
    out: Path,
    options: EmbedOptions,
    *,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> AnnData:
    """Write `enhance` to an ``.h5ad``."""
    _check_out(out, source, options, (".h5ad",))
    found = enhance(source, **vars(options), progress=progress, log=log)
    with writing(out) as partial:
        found.write_h5ad(partial)
    return found


def _check_out(
    out: Path, source: str | Path, options: EmbedOptions, forms: tuple[str, ...]
) -> None:
    if out.suffix not in forms:
        raise InputError(f"{out}: end the output's name in {' or '.join(forms)}")
    check_target(out, Path(source), overwrite=options.overwrite)


@contextmanager
def _opened(
    source: Any, model: str | Path, settings: dict[str, Any], log: Log
) -> Iterator[tuple[Counts, GeneMap, Embedder]]:
    """Counts, their genes and the loaded model; all that can is refused before torch is there."""
    options = from_mapping(EmbedOptions, {**settings, "model": str(model)}, "options")
    with open_counts(source, layer=options.layer, log=log) as counts:
        header = read_model(model)
        genes = header.map_genes(counts.var, gene_key=options.gene_key, name=counts.name)
        from cellscribe.inference.embedder import load

        embedder = load(
            model,
            device=options.device,
            precision=options.precision,
            threads=options.threads,
            options=options,
        )
        if embedder.note:
            log(embedder.note)
        yield counts, genes, embedder


def _gene_frame(embedder: Embedder) -> pd.DataFrame:
    import pandas as pd

    table = embedder.header.table
    return pd.DataFrame({"symbol": list(table.symbols)}, index=list(table.ids))


def _about(counts: Counts, embedder: Embedder, what: str) -> dict[str, Any]:
    return {
        "cellscribe": metadata.version("cellscribe"),
        "what": what,
        "model": embedder.header.name,
        "model_hash": embedder.hash,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "source": Path(counts.name).name,
        "layer": counts.layer,
        "n_cells": counts.n_cells,
    }
