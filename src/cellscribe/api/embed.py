"""The verb embed: cells to vectors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.cells.counts import Counts, open_counts
from cellscribe.config import EmbedOptions, OutputDtype, Precision
from cellscribe.inference.embed import Embedded, check_output, embed_counts

if TYPE_CHECKING:
    from anndata import AnnData


def embed(
    source: str | Path | AnnData,
    *,
    model: str | Path = "mini",
    key_added: str = "X_cellscribe",
    copy: bool = False,
    layer: str | None = None,
    gene_key: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    dtype: OutputDtype = "float32",
    threads: int | None = None,
    progress: Progress | None = None,
) -> AnnData | npt.NDArray[np.floating] | None:
    """Embed the cells of an AnnData in place, or those of a file into an array.

    Parameters
    ----------
    source
        AnnData, in memory or backed, or a file of any known format. Raw counts.
    model, device, precision, threads
        As for `load`.
    key_added
        The vectors go to ``obsm[key_added]``, what they are to ``uns["cellscribe"][key_added]``.
    copy
        Leave an AnnData as it is and return a changed copy.
    layer
        Where the raw counts are: ``"X"`` (default), ``"raw"``, or a layer's name.
    gene_key
        Column of ``var`` with Ensembl ids or symbols; found by its values if not given.
    dtype
        Of the vectors.
    progress
        Told (cells done, cells in all).

    Returns
    -------
    AnnData, numpy.ndarray or None
        None for an AnnData; the copy with `copy`; ``[n_cells, D]`` for a file.

    Raises
    ------
    InputError
        Bad input, in one line with its mend.
    """
    from cellscribe.inference.embedder import load

    embedder = load(model, device=device, precision=precision, threads=threads)
    words: dict[str, Any] = {"layer": layer, "gene_key": gene_key, "dtype": dtype}
    vectors = embedder.embed(source, **words, progress=progress)
    if isinstance(source, str | Path):
        return vectors
    adata = source
    if copy:
        # A backed one has no copy but in another file.
        adata = source.to_memory() if source.isbacked else source.copy()
    adata.obsm[key_added] = vectors
    about = dict(adata.uns.get("cellscribe", {}))
    about[key_added] = {
        "model": embedder.header.name,
        "model_hash": embedder.hash,
        "vocabulary_hash": embedder.header.table.hash,
        "pooling": embedder.pooling,
        "precision": embedder.precision,
        "device": embedder.device.type,
        "layer": layer or "X",
    }
    adata.uns["cellscribe"] = about
    return adata if copy else None


def embed_file(
    source: str | Path | AnnData | Counts,
    out: str | Path,
    options: EmbedOptions | None = None,
    *,
    report: str | Path | None = None,
    map_png: str | Path | None = None,
    color_by: str | None = None,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Embedded:
    """Embed every cell of `source` into the file `out`, by blocks, resumable.

    Parameters
    ----------
    source
        As for `embed`.
    out
        ``.npy``, ``.h5ad``, ``.zarr`` or ``.parquet``.
    options
        Model, precision, whether to resume or overwrite.
    report
        Also write a self-contained HTML page here.
    map_png
        Also draw the map (UMAP of the vectors) here.
    color_by
        Column of obs that colours the map.
    progress
        Told (cells done, cells in all).
    log
        Told, a line each, what a user should know while it happens; stderr if not given.

    Raises
    ------
    InputError
        Bad input or options, a full disk.
    """
    options = options or EmbedOptions()
    report, map_png = (None if path is None else Path(path) for path in (report, map_png))
    drawn = [path for path in (report, map_png) if path is not None]
    out, log = Path(out), log or log_stderr
    # A conversion of the input may take long: an output that cannot be is refused before it.
    check_output(out, Path(source) if isinstance(source, str | Path) else None, options)
    with open_counts(source, layer=options.layer, log=log) as counts:
        if drawn:
            from cellscribe.report.embedding_files import check_wishes, draw

            check_wishes(counts, color_by, drawn, out)
        result = embed_counts(counts, out, options, progress=progress, log=log)
        if drawn:
            draw(
                result,
                counts,
                context=result.provenance["context"],
                color_by=color_by,
                report=report,
                map_png=map_png,
            )
    return result
