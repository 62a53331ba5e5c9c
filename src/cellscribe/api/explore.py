"""The verb explore: a page to look around in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import ExploreOptions, choose_options
from cellscribe.errors import InputError
from cellscribe.lease import lease
from cellscribe.writing import check_target, writing

if TYPE_CHECKING:
    from anndata import AnnData

    from cellscribe.explorer.make import Explored


def explore(
    source: str | Path | AnnData,
    out: str | Path,
    options: ExploreOptions | None = None,
    *,
    color: Sequence[str] | None = None,
    gene: Sequence[str] | None = None,
    basis: Sequence[str] | None = None,
    use_rep: str | None = None,
    layer: str | None = None,
    max_cells: int | None = None,
    title: str | None = None,
    seed: int | None = None,
    overwrite: bool | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> Explored:
    """Write a page to look around in the cells of a file, or of an AnnData.

    Parameters
    ----------
    source
        ``.h5ad``, ``.zarr`` or AnnData with vectors in ``obsm``, as `embed` makes it.
    out
        ``.html``; one self-contained page.
    options
        All settings at once, in place of the keywords from `color` to `overwrite`.
    color
        Columns of obs to colour by, the first shown first; all if not given.
    gene
        Genes to colour by: names or Ensembl ids.
    basis
        One or two maps: keys of obsm, or ``"pca"`` of the counts. Two columns are drawn as they
        are, more are laid out by UMAP.
    use_rep
        Key of obsm with the vectors that neighbors are found in.
    layer
        Where the raw counts are, for genes and a PCA.
    max_cells
        Most cells of the page; of more, so many are drawn at random.
    title
        Title of the page.
    seed
        Of the cells that are drawn, and of UMAP.
    overwrite
        Replace `out` if it exists.
    progress, log
        As for `embed`.

    Returns
    -------
    Explored
        What the page shows.

    Raises
    ------
    InputError
        Bad input or options, or a full disk.
    """
    given = {
        "color": None if color is None else tuple(color),
        "gene": None if gene is None else tuple(gene),
        "basis": None if basis is None else tuple(basis),
        "use_rep": use_rep,
        "layer": layer,
        "max_cells": max_cells,
        "title": title,
        "seed": seed,
        "overwrite": overwrite,
    }
    options = choose_options(ExploreOptions, options, "explore", given)
    out = Path(out)
    if out.suffix not in (".html", ".htm"):
        raise InputError(f"{out}: a map is a page; give it a name with .html")
    path = Path(source) if isinstance(source, str | Path) else None
    check_target(out, path, overwrite=options.overwrite)
    with lease(out):
        return write_page(source, out, options, progress=progress, log=log)


def write_page(
    source: str | Path | AnnData,
    out: Path,
    options: ExploreOptions,
    *,
    progress: Progress | None,
    log: Log,
) -> Explored:
    """Write the page of `explore` to an output that was checked and is held."""
    from cellscribe.explorer.make import make_page

    with writing(out) as partial:
        found = make_page(source, options, progress=progress, log=log)
        partial.write_text(found.text, encoding="utf-8")
    return found
