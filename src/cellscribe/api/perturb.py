"""The verb perturb: genes deleted or promoted in silico."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellscribe.api.genes import claim_form
from cellscribe.callbacks import Log, Progress, log_stderr
from cellscribe.config import CountsKind, PerturbOptions, Precision, Species, choose_options
from cellscribe.config.renamed import former_keywords
from cellscribe.escaping import safe_cells
from cellscribe.inference.outputs import sidecar
from cellscribe.inference.session import open_session
from cellscribe.perturbation.perturb import perturb_cells
from cellscribe.writing import writing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from cellscribe.inference.embedder import Embedder

FORMS = (".csv", ".parquet")


@former_keywords(say="log", cells="max_cells")
def perturb(
    source: str | Path | AnnData,
    *,
    model: str | Path | Embedder | None = None,
    genes: str | Sequence[str] | None = None,
    top: int | None = None,
    mode: Literal["delete", "promote"] | None = None,
    combine: bool | None = None,
    group_by: str | None = None,
    start: str | None = None,
    goal: str | None = None,
    max_cells: int | None = None,
    seed: int | None = None,
    layer: str | None = None,
    gene_key: str | None = None,
    species: Species | None = None,
    modality: str | None = None,
    table: str | None = None,
    counts: CountsKind | None = None,
    pool: str | None = None,
    hidden_layer: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    threads: int | None = None,
    options: PerturbOptions | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Delete or promote genes in every cell, and measure how far cells and other genes move.

    Parameters
    ----------
    source
        AnnData or a file of any known format. Raw counts.
    model
        As for `embed`.
    genes, top
        Genes to perturb, by Ensembl id or symbol, or so many of those that most cells show.
    mode
        ``"delete"`` (default): take the genes out of every cell; ``"promote"``: put them in front.
    combine
        Perturb all named genes together, instead of one by one.
    group_by, start, goal
        Column of obs by whose values figures are given; its value whose cells are perturbed; its
        value towards whose centre a move counts.
    max_cells
        Most cells that are perturbed, and most that make a goal, drawn at random (1,000).
    seed
        Seed of all random draws.
    layer, gene_key, species, modality, table, counts, pool, hidden_layer, device, precision,
    threads
        As for `embed`.
    options
        All settings at once, in place of the keywords.
    progress
        Called with (cells or genes done, in all).
    log
        Called with each line that a user should read.

    Returns
    -------
    pandas.DataFrame
        A row a group and gene, in each group the largest move first. ``n_cells``: cells that were
        edited; deleted from are only those in which the model reads the gene. ``shift`` and
        ``shift_sd``: mean and deviation of 1 - cosine between a cell's vectors with and without the
        edit. ``gene_shift``: the same of the contextual vectors of the genes that are in both, mean
        over genes, then cells; NaN for a family whose genes cannot be followed. ``p``: Mann-Whitney
        test of a gene's shifts against those of all others perturbed in the group; of a single gene
        against random genes of like rank in the same cells (like rank: at most a tenth of the
        cell's genes apart; five a cell, drawn with the seed). ``fdr``: Benjamini-Hochberg
        over the genes of a group. With a goal, ``towards_goal``: change of the cosine to the goal's
        centre less that of the cosine to the start's, with ``goal_p`` and ``goal_fdr``.
        ``attrs["cellscribe"]`` has the provenance.

    Raises
    ------
    InputError
        Bad input or options; a gene that the model does not know or that no cell shows.
    """
    named = (genes,) if isinstance(genes, str) else genes
    given: dict[str, Any] = {
        "genes": None if named is None else tuple(named),
        "top": top,
        "mode": mode,
        "combine": combine,
        "group_by": group_by,
        "start": start,
        "goal": goal,
        "max_cells": max_cells,
        "seed": seed,
        "layer": layer,
        "gene_key": gene_key,
        "species": species,
        "modality": modality,
        "table": table,
        "counts": counts,
        "pool": pool,
        "hidden_layer": hidden_layer,
        "device": device,
        "precision": precision,
        "threads": threads,
    }
    options = choose_options(PerturbOptions, options, "perturb", given)
    with open_session(model, options, log=log) as session:
        return perturb_cells(session, source, options, progress=progress)


def perturb_file(
    source: str | Path | AnnData,
    out: str | Path,
    options: PerturbOptions,
    *,
    model: str | Path | Embedder | None = None,
    progress: Progress | None = None,
    log: Log = log_stderr,
) -> pd.DataFrame:
    """Write the table of `perturb` to a ``.csv`` or ``.parquet``, which appears when it is whole.

    Its provenance stands next to it in ``OUT.json``.

    Raises
    ------
    InputError
        As `perturb`; another form of output, or one that exists.
    """
    out = Path(out)
    with claim_form(out, source, FORMS, overwrite=options.overwrite, beside=[sidecar(out)]):
        with open_session(model, options, log=log) as session:
            table = perturb_cells(session, source, options, progress=progress)
        about = json.dumps(table.attrs.pop("cellscribe"), indent=2)
        with writing(out) as partial:
            if out.suffix == ".csv":
                safe_cells(table).to_csv(partial, index=False)
            else:
                table.to_parquet(partial, index=False)
            with writing(sidecar(out)) as note:
                note.write_text(about + "\n", encoding="utf-8")
    return table
