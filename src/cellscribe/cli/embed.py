"""The verb embed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import cellscribe
from cellscribe.callbacks import log_stderr
from cellscribe.cli.app import app
from cellscribe.cli.progress import progress_bar
from cellscribe.cli.sharing import MANY, is_many, refuse_sharing, run_many
from cellscribe.cli.written import AsJson, gene_facts, print_written
from cellscribe.config import EmbedOptions, ShardOptions
from cellscribe.errors import InputError


@app.command
def embed(
    *sources: str,
    out: Annotated[str, Parameter(name=["--out", "-o"])],
    options: Annotated[EmbedOptions | None, Parameter(name="*")] = None,
    sharing: Annotated[ShardOptions | None, Parameter(name="*", group=MANY)] = None,
    report: Path | None = None,
    map_png: Annotated[Path | None, Parameter(name="--map")] = None,
    map_page: Annotated[Path | None, Parameter(name="--explore")] = None,
    color_by: str | None = None,
    as_json: AsJson = False,
) -> None:
    """Turn every cell of a file, or of many, into a vector.

    Parameters
    ----------
    sources
        Raw counts: .h5ad, .zarr, .loom, 10x .h5, folder with a .mtx (or .tar.gz), .csv, .parquet.
        One result for each of several, of a folder, a glob, a URL, or a CSV with the column path.
    out
        .npy, .h5ad, .zarr or .parquet, which appears when it is whole; of several sources a folder
        or a URL.
    report
        Write a self-contained HTML page on the run: map, coverage, lengths, warnings.
    map_png
        Draw the map (UMAP of the vectors) as a PNG.
    map_page
        Write a page to look around in, as explore does; the output is an .h5ad or .zarr.
    color_by
        Column of obs that colours the maps.
    as_json
        Print what was done as one JSON object; of many sources it is the manifest.
    """
    options, sharing = options or EmbedOptions(), sharing or ShardOptions()
    asked = (("--report", report), ("--map", map_png), ("--explore", map_page))
    drawn = [flag for flag, path in asked if path]
    if color_by is not None and not drawn:
        raise InputError("--color-by colours a map; add --map PNG, --report or --explore HTML")
    if is_many(sources, out):
        if drawn:
            raise InputError(f"{drawn[0]} is of one source; give a source and a file as output")
        run_many(cellscribe.embed_files, sources, out, options, sharing, as_json=as_json)
        return
    refuse_sharing(out, sharing)
    with progress_bar("Embedding") as progress:
        done = cellscribe.embed_file(
            sources[0],
            out,
            options,
            report=report,
            map_png=map_png,
            map_page=map_page,
            color_by=color_by,
            progress=progress,
            log=log_stderr,
        )
    about = done.provenance
    log_stderr(done.genes.summary())
    log_stderr(
        f"{done.n_cells:,} cells x {done.width} with {about['model']} on "
        f"{about['device']} ({about['precision']}), {done.cells_per_second:,.0f} cells/s"
    )
    for warning in done.warnings:
        log_stderr(f"Warning: {warning}")
    print_written(
        (out, report, map_png, map_page),
        as_json,
        lambda: {
            "cells": done.n_cells,
            "vector_size": done.width,
            "seconds": round(done.seconds, 3),
            "genes": gene_facts(done.genes),
            "counts_hash": done.counts_hash,
            "warnings": done.warnings,
            "provenance": about,
        },
    )
