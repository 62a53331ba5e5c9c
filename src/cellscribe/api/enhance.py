"""The verb enhance: expression as a model gives it back.

Cells x genes of a large file do not fit into memory, so the file is written batch by batch, and
only `enhance` itself returns them whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellscribe.api.genes import claim_form, gene_frame
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import CountsKind, EnhanceOptions, Precision, Species, choose_options
from cellscribe.config.renamed import former_keywords
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells, Session, open_session
from cellscribe.writing import OutputError, writing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

WHAT = "expression as the model gives it back"


@former_keywords(say="log")
def enhance(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    target_depth: str | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
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
    source, layer, gene_key, species, modality, table, counts, device, precision, threads,
    options, progress, log
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
        Bad input, a model whose family gives no expression back, or more cells than memory holds.
    """
    given = {
        "target_depth": target_depth,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(EnhanceOptions, options, "enhance", given)
    with open_session(model, options, log=log) as session:
        cells = session.open(source)
        from anndata import AnnData

        var = _genes(session)
        check_memory(cells.counts.n_cells, len(var))
        values = np.zeros((cells.counts.n_cells, len(var)), dtype=np.float32)
        for rows, part in _blocks(session, cells, progress):
            values[rows] = part
        return AnnData(
            X=values,
            obs=cells.counts.obs.copy(),
            var=var,
            uns={"cellscribe": session.about(cells, what=WHAT)},
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
    """Write `enhance` to an ``.h5ad``, batch by batch: memory does not grow with the cells.

    Returns
    -------
    AnnData
        What was written, with ``X`` left in the file.

    Raises
    ------
    InputError
        As for `enhance`; the disk has too little room.
    """
    import anndata

    options, out = options or EnhanceOptions(), Path(out)
    with (
        claim_form(out, source, (".h5ad",), overwrite=options.overwrite),
        open_session(model, options, log=log) as session,
    ):
        cells = session.open(source)
        with writing(out) as partial:
            _write(partial, out, session, cells, progress)
    return anndata.read_h5ad(out, backed="r")


def _write(
    path: Path, out: Path, session: Session, cells: Cells, progress: Progress | None
) -> None:
    import h5py
    from anndata import AnnData

    from cellscribe.inference.outputs import plain_frame, write_element

    var = _genes(session)
    shape = (cells.counts.n_cells, len(var))
    needed, free = 4 * shape[0] * shape[1], shutil.disk_usage(out.parent).free
    if needed > free:
        raise OutputError(
            f"{out}: {shape[0]:,} cells x {shape[1]:,} genes take {needed / 1e9:,.1f} GB, "
            f"{free / 1e9:,.1f} GB are free there; write elsewhere, or enhance fewer cells"
        )
    blocks = _blocks(session, cells, progress)
    with h5py.File(path, "w") as root:
        facts = {"cellscribe": session.about(cells, what=WHAT)}
        write_element(root, "/", AnnData(obs=plain_frame(cells.counts.obs), var=var, uns=facts))
        if "X" in root:
            del root["X"]
        # a cell a chunk, since batches come in an order of their own
        chunks = (1, shape[1]) if shape[0] else None
        values = root.create_dataset("X", shape, np.float32, chunks=chunks, fillvalue=0)
        values.attrs["encoding-type"], values.attrs["encoding-version"] = "array", "0.2.0"
        for rows, part in blocks:
            for row, value in zip(rows, part, strict=True):
                values[row] = value


def check_memory(n_cells: int, n_genes: int) -> None:
    """Refuse a result that would fill this computer's memory.

    Raises
    ------
    InputError
        Cells x genes take more than half of it.
    """
    needed = 4 * n_cells * n_genes
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there // 2:
        raise InputError(
            f"{n_cells:,} cells x {n_genes:,} genes take {needed / 1e9:,.1f} GB of "
            f"{there / 1e9:,.1f} GB of memory; use cellscribe.enhance_file, or cellscribe enhance "
            "-o OUT.h5ad, which write them batch by batch"
        )


def _genes(session: Session) -> pd.DataFrame:
    """Genes of the model that have an expression; special tokens (read depths) have none."""
    var = gene_frame(session)
    return var[~var["symbol"].str.startswith("<").to_numpy()]


def _blocks(
    session: Session, cells: Cells, progress: Progress | None
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Rows of the input, and their expression ``[len(rows), genes]``."""
    from cellscribe.inference.gene_vectors import expression

    is_gene = ~gene_frame(session)["symbol"].str.startswith("<").to_numpy()
    found = expression(session.embedder, cells.counts, cells.genes, progress=progress)
    return ((rows, part[:, is_gene]) for rows, part in found)
