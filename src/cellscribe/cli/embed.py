"""Verbs on cells: embed, genes, enhance, tokenize; and info."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.config import EmbedOptions


@app.command
def embed(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
    report: Path | None = None,
    map_png: Annotated[Path | None, Parameter(name="--map")] = None,
    color_by: str | None = None,
) -> None:
    """Turn every cell of a file into a vector.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .npy, .h5ad, .zarr or .parquet; appears when it is whole.
    report
        Write a self-contained HTML page on the run: map, coverage, lengths, warnings.
    map_png
        Draw the map (UMAP of the vectors) as a PNG.
    color_by
        Column of obs that colours the map.
    """
    from cellscribe.callbacks import log_stderr

    with progress_bar("Embedding") as progress:
        done = cellscribe.embed_file(
            source,
            out,
            options,
            report=report,
            map_png=map_png,
            color_by=color_by,
            progress=progress,
            log=log_stderr,
        )
    provenance = done.provenance
    log_stderr(done.genes.summary())
    log_stderr(
        f"{done.n_cells:,} cells x {done.width} with {provenance['model']} on "
        f"{provenance['device']} ({provenance['precision']}), {done.cells_per_second:,.0f} cells/s"
    )
    for warning in done.warnings:
        log_stderr(f"Warning: {warning}")
    for path in (out, report, map_png):
        if path is not None:
            print(path)


@app.command
def genes(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
) -> None:
    """Turn every gene into a vector: the mean of its vectors over the cells that show it.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .h5ad (genes as observations) or .parquet; appears when it is whole.
    """
    from cellscribe.api.genes import write_genes
    from cellscribe.callbacks import log_stderr

    with progress_bar("Embedding genes") as progress:
        done = write_genes(
            source, out, options or EmbedOptions(), progress=progress, log=log_stderr
        )
    log_stderr(f"{done.n_obs:,} genes x {done.n_vars}")
    print(out)


@app.command
def enhance(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
) -> None:
    """Write the expression that a model gives back, at another read depth (scFoundation).

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        .h5ad; appears when it is whole.
    """
    from cellscribe.api.genes import write_enhanced
    from cellscribe.callbacks import log_stderr

    with progress_bar("Enhancing") as progress:
        done = write_enhanced(
            source, out, options or EmbedOptions(), progress=progress, log=log_stderr
        )
    log_stderr(f"{done.n_obs:,} cells x {done.n_vars:,} genes")
    print(out)


@app.command
def tokenize(
    source: Path,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    model: str = "mini",
    layer: str | None = None,
    gene_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the ranked genes of every cell as tokens to a Parquet file.

    Parameters
    ----------
    source
        Raw counts: .h5ad, .zarr, 10x .h5, 10x matrix folder (or .tar.gz of it), .loom.
    out
        The .parquet file: cell_id, input_ids, length.
    model
        Whose gene table and context: a bundled model's name or a checkpoint directory.
    layer
        Where the raw counts are: X (default), raw, or a layer's name.
    gene_key
        Column of var with Ensembl ids or symbols; found by its values if not given.
    overwrite
        Replace an output that exists.
    """
    from cellscribe.callbacks import log_stderr

    with progress_bar("Tokenizing") as progress:
        done = cellscribe.tokenize(
            source,
            out,
            model=model,
            layer=layer,
            gene_key=gene_key,
            overwrite=overwrite,
            progress=progress,
        )
    log_stderr(done.genes.summary())
    log_stderr(f"{done.n_cells:,} cells, {done.n_tokens:,} genes")
    if done.n_empty:
        log_stderr(f"Warning: {done.n_empty:,} cells have no count on a gene that the model knows.")
    print(out)


@app.command
def info(model: str = "mini", /) -> None:
    """Tell a model's size, cost, vocabulary, context and origin.

    Parameters
    ----------
    model
        A bundled model's name, a preset's, or a checkpoint directory.
    """
    facts = cellscribe.info(model)
    width = max(map(len, facts))
    for name, value in facts.items():
        lines = value if isinstance(value, list) else [value]
        for place, line in enumerate(lines):
            print(f"{name if place == 0 else '':<{width}}  {line}")
