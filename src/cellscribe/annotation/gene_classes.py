"""Learn labels of genes: from a list of genes and cells that show them to a calibrated head.

A gene's vector is the mean of its contextual vectors over the cells, as `genes` makes it, and the
head is a logistic regression on it; `genes` applies it. Temperature and threshold come from genes
that were held out. Paralogues, alike in expression and in label, may stand on both sides of a fold,
so the figures hold for genes that have such relatives among the learnt ones.

Letters: ``M`` genes, ``C`` labels, ``D`` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cellscribe.annotation.calibration import calibrate, log_calibration
from cellscribe.annotation.finetune import Finetuned, LearntColumn, about, save_finetuned
from cellscribe.annotation.gene_list import read_gene_list
from cellscribe.annotation.labels import Labelled, choose_folds, describe
from cellscribe.annotation.linear import fit_head
from cellscribe.callbacks import Progress, in_step
from cellscribe.config import FinetuneOptions
from cellscribe.errors import InputError
from cellscribe.inference.session import Cells, Session
from cellscribe.model.heads import Head

WARNING = (
    "Warning: held-out genes may have paralogues among the learnt ones, alike in expression and "
    "in label: the held-out figures are too good for a gene without such relatives."
)


def finetune_genes(
    session: Session,
    sources: Sequence[Cells],
    out: Path,
    options: FinetuneOptions,
    *,
    progress: Progress | None = None,
) -> Finetuned:
    """Learn the labels of `options.gene_list` from a model's vectors of genes, and save the model.

    Parameters
    ----------
    session
        The model and the device.
    sources
        Opened files of raw counts, whose cells show the genes.
    out
        The new model's directory; it appears whole or not at all.
    options
        The list and all the rest.
    progress
        Called with (cells done, cells in all, name of the step).

    Raises
    ------
    InputError
        A list that cannot be read, fewer than two labels of enough genes, or a model without
        vectors of genes.
    """
    assert options.gene_list is not None
    label_of = read_gene_list(options.gene_list)
    tokens, vectors = _mean_vectors(session, sources, progress)
    labelled, vectors = _label(session, sources, label_of, tokens, vectors, options)
    folds = choose_folds(labelled.truth, None, options.folds, options.seed)
    head, logits, tested = fit_head(vectors, labelled, folds)
    session.log(WARNING)
    calibration = calibrate(logits, labelled.truth[tested], folds[tested], options.accuracy)
    log_calibration(calibration, session.log, "genes")
    how = "each fold of genes by a head that did not see it"
    weight, bias = head.folded()
    saved = Head(
        of="genes",
        labels=labelled.labels,
        weight=weight.astype(np.float32),
        bias=bias.astype(np.float32),
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        about=about(session.embedder, options.learnt, labelled, calibration, how, None, options),
    )
    save_finetuned(out, session, [saved], None)
    learnt = LearntColumn(
        name=options.learnt,
        head=saved,
        calibration=calibration,
        labelled=labelled,
        logits=logits,
        tested=tested,
        folds=folds,
        known=np.ones(len(folds)),
    )
    return Finetuned(columns=[learnt], epochs=0)


def _mean_vectors(
    session: Session, sources: Sequence[Cells], progress: Progress | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Mean vector of each gene over the cells of all sources: ``[M]`` tokens, ``[M, D]``."""
    from cellscribe.inference.gene_vectors import gene_vectors

    step = in_step(progress, "Embedding genes")
    sums: dict[int, npt.NDArray[np.float64]] = {}
    n_cells: dict[int, int] = {}
    for each in sources:
        found = gene_vectors(session.embedder, each.counts, each.genes, progress=step)
        for token, vector, n in zip(found.tokens, found.vectors, found.n_cells, strict=True):
            sums[int(token)] = sums.get(int(token), 0.0) + n * vector.astype(np.float64)
            n_cells[int(token)] = n_cells.get(int(token), 0) + int(n)
    tokens = np.array(sorted(sums), dtype=np.int64)
    return tokens, np.stack([sums[token] / n_cells[token] for token in tokens.tolist()])


def _label(
    session: Session,
    sources: Sequence[Cells],
    label_of: dict[int, str],
    tokens: npt.NDArray[np.int64],
    vectors: npt.NDArray[np.float64],
    options: FinetuneOptions,
) -> tuple[Labelled, npt.NDArray[np.float64]]:
    """Genes of the list that the cells show, and their vectors."""
    named = _tokens_of(session, label_of)
    place = {token: row for row, token in enumerate(tokens.tolist())}
    shown = {token: label for token, label in named.items() if token in place}
    numbers = {label: list(shown.values()).count(label) for label in sorted(set(named.values()))}
    kept = [label for label, n in numbers.items() if n >= options.min_cells]
    left_out = {"not shown by the cells, or unknown to the model": len(label_of) - len(shown)}
    for label, n in numbers.items():
        if label not in kept:
            left_out[f"{label}: fewer than {options.min_cells} genes"] = n
    if len(kept) < 2:
        has = ", ".join(f"{label}: {n}" for label, n in numbers.items()) or "none"
        raise InputError(
            f"{options.gene_list}: at least two labels of {options.min_cells} genes that the cells "
            f"show are needed (there are {has}); give a longer list, cells that show more genes, "
            "or a lower --min-cells"
        )
    genes = [token for token in sorted(shown) if shown[token] in kept]
    for why, n in left_out.items():
        if n:
            session.log(f"{n:,} genes are left out ({why}).")
    labelled = Labelled(
        rows=[np.arange(len(genes))],
        labels=kept,
        truth=np.array([kept.index(shown[token]) for token in genes], np.int64),
        groups=None,
        sources=[describe(each.counts) for each in sources],
        left_out={why: n for why, n in left_out.items() if n},
    )
    return labelled, vectors[[place[token] for token in genes]]


def _tokens_of(session: Session, label_of: dict[int, str]) -> dict[int, str]:
    """Labels by the model's tokens; a gene that it does not know is left out."""
    import pandas as pd

    from cellscribe.corpus.build.gene_space import all_genes

    table = all_genes()
    names = [table.ids[gene] for gene in label_of]
    found = session.header.map_genes(pd.DataFrame(index=pd.Index(names)), name="the gene list")
    pairs = zip(found.token.tolist(), label_of.values(), strict=True)
    return {token: label for token, label in pairs if token >= 0}
